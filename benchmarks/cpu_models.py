"""Full-size Chinese-CLIP on the processor: torchlift's variants against torch and plain runtimes, in one run.

python benchmarks/cpu_models.py --work /tmp/bench
"""

from __future__ import annotations

import argparse
from pathlib import Path

from peers import checkpoint_of, on_same_onnx, print_benchmark, shipped
from torchlift.jobs.peers import peers as torch_peers
from torchlift.stages import BenchOptions, contenders_of, workloads
from torchlift.timing.latency import LatencyOptions, measure_latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoints and bundles are kept")
    parser.add_argument("--sizes", nargs="+", default=["ViT-B-16", "RN50"])
    parser.add_argument("--components", nargs="+", default=["image", "text"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    for size in arguments.sizes:
        bundle = shipped(size, arguments.work)
        for name in arguments.components:
            component = bundle.manifest.component(name)
            ours = [c for v in bundle.manifest.variants_of(name) for c in contenders_of(bundle, v)]
            source = checkpoint_of(size, arguments.work)
            contenders = [*torch_peers(source, name, compiled=True), *on_same_onnx(bundle, name), *ours]
            benchmark = measure_latency(
                contenders,
                workloads(bundle, component, BenchOptions(tuple(arguments.batches))),
                baseline=contenders[0].entrant,
                options=LatencyOptions(rounds=arguments.rounds, turn_seconds=0.6),
            )
            chosen = bundle.manifest.choices[name].variant
            print_benchmark(f"{size} {name} (torchlift chose {chosen})", benchmark)


if __name__ == "__main__":
    main()
