"""Full-size BERT, Swin, YOLOv5 and SRCNN on the processor, against torch and plain runtimes, in one run.

python benchmarks/families.py --work /tmp/bench

The plain runtimes get what a plain ``torch.onnx.export`` writes of the published network, with the same axes. INT8 is
calibrated on samples that the family draws; weights are random, so nothing is scored, and the fastest proven variant
without loss of precision (FP32, and BF16 or FP16 where the processor has them) is compared with the best peer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from peers import PlainOnnxRuntime, PlainOpenVino, apart, print_benchmark
from torchlift.bundle import Bundle
from torchlift.evidence import Benchmark, Entrant
from torchlift.families.base import LoadOptions
from torchlift.jobs.peers import peers as torch_peers
from torchlift.jobs.ship import ShipOptions, ship
from torchlift.jobs.source import Source
from torchlift.manifest import Variant, read_manifest
from torchlift.messages import entrant_text
from torchlift.signature import Axis
from torchlift.stages import BenchOptions, contenders_of, workloads
from torchlift.timing.latency import Contender, LatencyOptions, measure_latency


@dataclass(frozen=True)
class Subject:
    """A family's full-size network. ``sizes`` are those of the axes other than the batch at which it is timed."""

    title: str
    family: str
    write: Callable[[Path], Path]
    batches: tuple[int, ...] = (1, 8)
    sizes: Mapping[str, int] = field(default_factory=dict)
    axes: tuple[Axis, ...] = ()

    def source(self, work: Path) -> Source:
        """The checkpoint below ``work``, written on the first call."""
        location = self.write(work / self.family)
        return Source(self.family, str(location), LoadOptions({"": {axis.name: axis for axis in self.axes}}))


def subjects() -> dict[str, Subject]:
    """What is measured, by its short name."""
    from random_families import write_bert, write_srcnn, write_swin, write_yolov5

    batch = Axis("batch", 1, 8, 16)
    return {
        "bert": Subject("BERT-base, 128 tokens", "bert", write_bert, sizes={"sequence": 128}, axes=(batch,)),
        "swin": Subject("Swin-base, 224x224", "swin", write_swin, axes=(batch,)),
        "yolov5": Subject(
            "YOLOv5s, 640x640",
            "yolov5",
            write_yolov5,
            batches=(1,),
            sizes={"height": 640, "width": 640},
            axes=(Axis("batch", 1, 1, 4), Axis("height", 320, 640, 640, 32), Axis("width", 320, 640, 640, 32)),
        ),
        "srcnn": Subject("SRCNN x3, 256x256", "srcnn", write_srcnn, batches=(1,), sizes={"height": 256, "width": 256}),
    }


def shipped(subject: Subject, work: Path) -> Bundle:
    """The bundle of a subject below ``work``; made on the first call."""
    target = work / f"{subject.family}-bundle"
    if not (target / "manifest.json").is_file():
        ship(subject.source(work), target, ShipOptions(bench=BenchOptions((1,))))
    return Bundle(target, read_manifest(target))


def plain_export(source: Source, file: Path) -> None:
    """What a user writes: ``torch.onnx.export`` by dynamo of the published network, with the axes that may vary."""
    import torch

    component = source.load().component("model")
    signature = component.signature
    feeds = component.sample(signature.sizes("opt", batch=2), np.random.default_rng(0))
    dims = {a.name: torch.export.Dim.DYNAMIC for a in signature.axes if a.min < a.max}
    shapes = tuple({i: dims[d] for i, d in enumerate(spec.shape) if d in dims} for spec in signature.inputs)
    torch.onnx.export(
        component.reference,
        tuple(torch.from_numpy(feeds[name]) for name in signature.input_names),
        file,
        input_names=list(signature.input_names),
        output_names=list(signature.output_names),
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )


def plain_peers(subject: Subject, bundle: Bundle, work: Path) -> list[Contender]:
    """The runtimes on a plain export, where there is one; else what it raised is printed."""
    file = work / f"{subject.family}-plain" / "model.onnx"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            apart(plain_export, subject.source(work), file)
        except Exception as error:
            print(f"{subject.title}: a plain export fails: {type(error).__name__}: {str(error).splitlines()[0]:.200}\n")
            return []
    signature = bundle.manifest.components[0].signature
    return [
        Contender(Entrant("onnxruntime, plain export"), partial(PlainOnnxRuntime, file, signature)),
        Contender(Entrant("openvino, plain export f32"), partial(PlainOpenVino, file, signature, "f32")),
        Contender(Entrant("openvino, plain export default"), partial(PlainOpenVino, file, signature, "")),
    ]


def measure(subject: Subject, work: Path, options: LatencyOptions) -> None:
    """Time everything side by side, print a table for each batch, and how the best of ours stands."""
    bundle = shipped(subject, work)
    component = bundle.manifest.components[0]
    ours = [v for v in bundle.manifest.variants_of(component.name) if v.verification and v.verification.passed]
    baseline, *others = torch_peers(subject.source(work), component.name, compiled=True)
    contenders = [
        baseline,
        *others,
        *plain_peers(subject, bundle, work),
        *(contender for variant in ours for contender in contenders_of(bundle, variant)),
    ]
    loads = workloads(bundle, component, BenchOptions(subject.batches, subject.sizes))
    benchmark = measure_latency(contenders, loads, baseline=baseline.entrant, options=options)
    print_benchmark(subject.title, benchmark)
    print_standing(subject, benchmark, ours)


DEFAULT = "openvino, plain export default"
"""A peer that may compute in BF16: FP32 is not compared with it."""


def print_standing(subject: Subject, benchmark: Benchmark, ours: Sequence[Variant]) -> None:
    """How many times as fast as eager and as the best peer the fastest of ours is, in FP32 and in any float."""
    rates = {v.name: v.precision for v in ours}
    for batch in dict.fromkeys(x.batch for x in benchmark.latencies):
        rows = {entrant_text(x.contender): x for x in benchmark.latencies if x.batch == batch}
        peers = {name: x for name, x in rows.items() if name not in rates}
        eager = next(x for x in rows.values() if x.speedup is None)
        for what, precisions, left_out in (("FP32", ("fp32",), DEFAULT), ("float", ("fp32", "bf16", "fp16"), "")):
            found = [x for name, x in rows.items() if rates.get(name) in precisions]
            if not found:
                continue
            best = min(found, key=lambda x: x.median)
            name, rival = min(((n, x) for n, x in peers.items() if n != left_out), key=lambda item: item[1].median)
            print(
                f"- {subject.title}, batch {batch}, fastest {what}: {entrant_text(best.contender)}, "
                f"{eager.median / best.median:.2f} times eager, {rival.median / best.median:.2f} times {name}"
            )
    print()


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoints and bundles are kept")
    parser.add_argument("--only", default="bert,swin,yolov5,srcnn", help="which of them, with commas between")
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    known = subjects()
    for name in arguments.only.split(","):
        measure(known[name], arguments.work.absolute(), LatencyOptions(rounds=arguments.rounds, turn_seconds=0.6))


if __name__ == "__main__":
    main()
