"""JPEG bytes to features: torchlift's pipeline against Pillow and one ONNX Runtime call an image.

python benchmarks/end_to_end.py --work /tmp/bench
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from peers import encode_images, encode_images_singly, photographs, print_benchmark, shipped
from torchlift.evidence import Entrant
from torchlift.timing.latency import Contender, LatencyOptions, Workload, measure_latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoints and bundles are kept")
    parser.add_argument("--sizes", nargs="+", default=["ViT-B-16", "RN50"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    jpegs = photographs(arguments.images)
    for size in arguments.sizes:
        bundle = shipped(size, arguments.work)
        path = bundle.path.absolute()
        model = bundle.file(bundle.manifest.component("image").model).absolute()
        resolution = bundle.manifest.settings["resolution"]
        variants = bundle.manifest.variants_of("image")
        contenders = [
            Contender(
                Entrant("Pillow + onnxruntime, one by one"), partial(encode_images_singly, model, resolution, jpegs)
            ),
            *(
                Contender(
                    Entrant(f"torchlift {v.backend}/{v.precision}", v.precision),
                    partial(encode_images, path, jpegs, v.name),
                )
                for v in variants
            ),
        ]
        benchmark = measure_latency(
            contenders,
            [Workload({"batch": len(jpegs)}, {})],
            baseline=contenders[0].entrant,
            options=LatencyOptions(rounds=arguments.rounds, warmups=0),
        )
        chosen = bundle.manifest.choices["image"].variant
        print_benchmark(f"{size}: {len(jpegs)} JPEG files of 640x480 (torchlift chose {chosen})", benchmark)


if __name__ == "__main__":
    main()
