"""What gpu.py measured, as Markdown: a summary of all models beside what was published of them, then every table.

    python benchmarks/gpu_tables.py results/*.json

In a table the fastest of our proven variants is bold. "times X" is the geometric mean over the rounds of (X's median /
the contender's), with its 95% interval against the baseline; "the best peer" is the fastest that is not ours. Times are
medians over all rounds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from torchlift.cli.verdicts import moved_text
from torchlift.evidence import Benchmark, Conditions, Entrant, Latency
from torchlift.messages import entrant_text

EAGER = Entrant("pytorch", "fp16", compiled=False)
COMPILED = Entrant("pytorch", "fp16", compiled=True, cuda_graph=True)

CLIP_ON_T4 = {
    ("RN50", "image"): (12.93, 5.04, 1.36),
    ("RN50", "text"): (3.64, 0.95, 0.58),
    ("ViT-B-16", "image"): (11.12, 4.92, 3.58),
    ("ViT-B-16", "text"): (12.47, 3.42, 1.54),
    ("ViT-L-14", "image"): (21.19, 17.10, 13.08),
    ("ViT-L-14", "text"): (12.45, 3.48, 1.52),
    ("ViT-L-14-336", "image"): (47.11, 48.40, 31.59),
    ("ViT-L-14-336", "text"): (12.24, 3.25, 1.54),
    ("ViT-H-14", "image"): (35.10, 34.00, 26.98),
    ("ViT-H-14", "text"): (23.98, 6.01, 3.89),
}
"""Milliseconds at batch 1 in FP16 by PyTorch, ONNX Runtime and TensorRT, as Chinese-CLIP's deployment.md gives them."""

MOBILEVIT_ON_A10 = {
    "pytorch": {1: 1.577, 4: 3.110, 8: 5.602},
    "fp32": {1: 1.223, 4: 2.693, 8: 5.082},
    "fp16": {1: 0.694, 4: 1.354, 8: 2.509},
    "int8": {1: 0.956, 4: 1.353, 8: 2.362},
    "int8-fp16": {1: 0.664, 4: 0.971, 8: 1.774},
}
"""Batch -> milliseconds of MobileViT-XXS by PyTorch in FP32 and by TensorRT, as MobileViT_TensorRT's README gives them;
its last row keeps LayerNorm and attention whole, in FP16.
"""


@dataclass(frozen=True)
class Result:
    """One file of gpu.py: what was measured of one model, why what failed did, and seconds and bytes of each build."""

    size: str
    components: Mapping[str, Benchmark]
    failed: Mapping[str, str]
    facts: Mapping[str, tuple[float | None, int]]

    @classmethod
    def read(cls, file: Path) -> Result:
        return msgspec.json.decode(file.read_bytes(), type=cls)

    def loads(self) -> Iterator[Load]:
        for component, benchmark in self.components.items():
            for sizes in dict.fromkeys(tuple(x.sizes.items()) for x in benchmark.latencies):
                rows = [x for x in benchmark.latencies if tuple(x.sizes.items()) == sizes]
                yield Load(component, dict(sizes), rows, benchmark.baseline)

    def is_proven(self, row: Latency) -> bool:
        """Whether a row is of a variant of ours that was verified."""
        return _is_ours(row) and _variant_of(row) not in self.failed

    def best(self, load: Load) -> Latency | None:
        """The fastest of our variants that are proven."""
        return min(filter(self.is_proven, load.rows), key=lambda x: x.median, default=None)


@dataclass(frozen=True)
class Load:
    """What was measured of a component at some sizes."""

    component: str
    sizes: Mapping[str, int]
    rows: Sequence[Latency]
    baseline: Entrant | None

    def of(self, contender: Entrant) -> Latency | None:
        return next((x for x in self.rows if x.contender == contender), None)

    def times_best_peer(self, row: Latency) -> str:
        """Empty where the baseline failed."""
        peers = [speed for x in self.rows if not _is_ours(x) and (speed := self._speed(x))]
        speed = self._speed(row)
        return f"{speed / max(peers):.2f}" if speed and peers else ""

    def _speed(self, row: Latency) -> float | None:
        """Times the baseline."""
        return 1.0 if row.contender == self.baseline else row.speedup.value if row.speedup else None


def _is_ours(row: Latency) -> bool:
    return "/" in row.contender.name


def _variant_of(row: Latency) -> str:
    return row.contender.name.partition(" ")[0]


def summarise(results: Sequence[Result]) -> None:
    """Print Chinese-CLIP at each batch, and MobileViT, each beside what was published."""
    loads = [(result, load) for result in results for load in result.loads()]
    clip = [(result, load) for result, load in loads if (result.size, load.component) in CLIP_ON_T4]
    for batch in dict.fromkeys(load.sizes["batch"] for _, load in clip):
        _summarise_clip(batch, [(result, load) for result, load in clip if load.sizes["batch"] == batch])
    mobile = [(result, load) for result, load in loads if result.size == "mobilevit-xxs"]
    if mobile:
        _summarise_mobilevit(mobile)


def _summarise_clip(batch: int, loads: Sequence[tuple[Result, Load]]) -> None:
    titles = ["eager / compiled / ours", "ours", "times eager [95%]", "times the best peer"]
    if batch == 1:
        titles = ["PyTorch / ONNX / TensorRT on a T4", "TensorRT, times PyTorch there", *titles]
    print(f"Chinese-CLIP, batch {batch}, ms\n\n| | {' | '.join(titles)} |\n|---|{'--:|' * len(titles)}")
    for result, load in loads:
        eager, compiled, ours = load.of(EAGER), load.of(COMPILED), result.best(load)
        if not (eager and compiled and ours):
            continue
        cells = [
            f"{eager.median:.3f} / {compiled.median:.3f} / {ours.median:.3f}",
            entrant_text(ours.contender).split("/", 1)[1],
        ]
        cells += [_ratio(ours), load.times_best_peer(ours)]
        if batch == 1:
            torch, onnx, tensorrt = CLIP_ON_T4[result.size, load.component]
            cells = [f"{torch:.2f} / {onnx:.2f} / {tensorrt:.2f}", f"{torch / tensorrt:.2f}", *cells]
        print(f"| {result.size} {load.component} | {' | '.join(cells)} |")
    print()


def _summarise_mobilevit(loads: Sequence[tuple[Result, Load]]) -> None:
    titles = ["batch", "published, A10", "here [95%]", "with a CUDA graph [95%]"]
    titles += ["times TensorRT in FP32: published", "here, with CUDA graphs"]
    print("MobileViT-XXS, TensorRT, times PyTorch eager in FP32 at the same batch; (refused): out of tolerance\n")
    print(f"| | {' | '.join(titles)} |\n|---|{'--:|' * len(titles)}")
    eager, fp32 = MOBILEVIT_ON_A10["pytorch"], MOBILEVIT_ON_A10["fp32"]
    for precision, published in MOBILEVIT_ON_A10.items():
        for result, load in loads:
            batch = load.sizes["batch"]
            if precision == "pytorch" or batch not in published:
                continue
            rows = [load.of(_engine(precision, cuda_graph=graphed)) for graphed in (False, True)]
            here = [_ratio(x) + " (refused)" * (x is not None and not result.is_proven(x)) for x in rows]
            over_fp32 = [
                f"{fp32[batch] / published[batch]:.2f}",
                _times(rows[1], load.of(_engine("fp32", cuda_graph=True))),
            ]
            cells = [f"{batch}", f"{eager[batch] / published[batch]:.2f}", *here, *over_fp32]
            print(f"| {precision} | {' | '.join(cells)} |")
    print()


def _engine(recipe: str, *, cuda_graph: bool) -> Entrant:
    """TensorRT's variant of MobileViT."""
    return Entrant(f"model/tensorrt/{recipe}", recipe.partition("-")[0], cuda_graph=cuda_graph)


def _times(row: Latency | None, other: Latency | None) -> str:
    """How many times as fast a row is as another of the same load; empty where one is not there."""
    if row is None or other is None or row.speedup is None or other.speedup is None:
        return ""
    return f"{row.speedup.value / other.speedup.value:.2f}"


def _ratio(row: Latency | None) -> str:
    return "" if row is None or row.speedup is None else str(row.speedup)


def print_tables(result: Result) -> None:
    """Print everything in one file."""
    for component, found in itertools.groupby(result.loads(), lambda load: load.component):
        for load in found:
            print(f"{component}, {', '.join(f'{name} {size}' for name, size in load.sizes.items())}\n")
            _print_rows(result, load)
        print(f"{_conditions(result.components[component])}\n")
    if result.failed:
        print("Not measured, or not proven:\n")
        for name, reason in result.failed.items():
            print(f"- {name}: {reason}")
        print()


def _print_rows(result: Result, load: Load) -> None:
    titles = [
        "ms",
        "with copies",
        f"times {entrant_text(load.baseline) if load.baseline else 'the baseline'} [95%]",
        "times the best peer",
        "built in s",
        "MB",
    ]
    print(f"| contender | {' | '.join(titles)} |\n|---|{'--:|' * len(titles)}")
    best = result.best(load)
    for x in load.rows:
        name = entrant_text(x.contender)
        name = f"**{name}**" if x is best else name
        seconds, size = result.facts.get(_variant_of(x), (None, None))
        ratio = "1" if x.contender == load.baseline else _ratio(x)
        cells = [f"{x.median:.3f}", f"{x.copied:.3f}" if x.copied else "", ratio, load.times_best_peer(x)]
        cells += [f"{seconds:.0f}" if seconds else "", f"{size / 1e6:.0f}" if size else ""]
        print(f"| {name} | {' | '.join(cells)} |")
    print()


def _conditions(found: Benchmark) -> str:
    return "; ".join(
        [*map(described, found.conditions), f"{found.rounds} interleaved rounds, a process each", found.at]
    )


def described(seen: Conditions) -> str:
    """What a GPU did while it was measured."""
    low, middle, high = seen.clock
    said = moved_text(seen)
    moved = f"; the times may have moved: {said}" if said else ""
    return f"{seen.gpu}, {low}-{high} MHz (median {middle}), at most {seen.temperature[1]} C{moved}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, help="what measure and stream of gpu.py wrote")
    results = [Result.read(file) for file in parser.parse_args().results]
    summarise(results)
    for size, found in itertools.groupby(results, lambda result: result.size):
        print(f"### {size}\n")
        for result in found:
            print_tables(result)


if __name__ == "__main__":
    main()
