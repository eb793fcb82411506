"""What it costs to find the costly nodes of a ViT-B-16 in INT8, and to calibrate it.

python benchmarks/bisect_cost.py --work /tmp/bench
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import onnx_ir as ir

from peers import apart
from precision_cpu import Subject, drawn, make_variants, opened, subjects
from torchlift.cli.verdicts import damage_text
from torchlift.convert.calibration import CalibrationOptions, Method, collect, ranges_by
from torchlift.graph.schemes import SCHEMES, observed
from torchlift.graph.units import name_nodes
from torchlift.jobs import JobOptions, bisect_bundle
from torchlift.stages import ConvertOptions

METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoints and bundles are kept")
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--samples", type=int, default=128)
    arguments = parser.parse_args()
    subject = subjects(arguments.work.absolute())["vit"]
    apart(make_variants, subject, 32)
    for name in ("onnxruntime", "openvino"):
        bisect(subject.path, f"{subject.component}/{name}/int8", arguments.evaluations)
    calibrate(subject, arguments.samples)


def bisect(path: Path, variant: str, evaluations: int) -> None:
    """Print what a search at the goldens takes."""
    start = time.perf_counter()
    report = bisect_bundle(path, variant, JobOptions(convert=ConvertOptions(evaluations=evaluations)))
    seconds = time.perf_counter() - start
    search = report.search
    nodes = sum(len(finding.items) for finding in search.findings)
    print(
        f"{variant}: {seconds:.0f} s for {search.evaluations} evaluations of {nodes} nodes "
        f"({damage_text(report.damage)}); damage of all {search.total:.2e}; half of it is in "
        f"{len(report.keep)} modules",
        flush=True,
    )


def calibrate(subject: Subject, samples: int) -> None:
    """Print what one collection takes, which serves every method, and each method on it."""
    bundle, component = opened(subject)
    source = bundle.file(component.model)
    model = ir.load(source)
    name_nodes(model)
    names = observed(model, SCHEMES["int8-u8s8"])
    feeds = drawn(subject, samples)
    start = time.perf_counter()
    histograms = collect(source, names, feeds, samples)
    collected = time.perf_counter() - start
    print(f"{subject.title}: histograms of {len(names)} tensors over {samples} samples: {collected:.1f} s")
    for method in METHODS:
        start = time.perf_counter()
        ranges_by(histograms, CalibrationOptions(method))
        seconds = time.perf_counter() - start
        print(f"  ranges by {method}: {seconds:.2f} s more, {collected + seconds:.1f} s in all")


if __name__ == "__main__":
    main()
