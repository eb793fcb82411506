"""How long it takes to open a bundle and to answer once, and what of it is the comparison of checksums.

    python benchmarks/opening.py --work /tmp/bench --model ViT-B-16

``all files`` compares every file of the bundle before it is used, as `torchlift verify` does; ``files used`` compares
those that the variant needs, as `torchlift run` and `tl.open` do. Each chosen variant has a process of its own, where
both ways take turns; the first opening in it, which loads the libraries, is not counted. The files are in the page
cache.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from torchlift.backends import backend
from torchlift.bundle import Bundle
from torchlift.machine import this_machine
from torchlift.manifest import Manifest, read_manifest
from torchlift.pipelines import OpenOptions, of_bundle
from torchlift.progress import Progress, Stage

OPENERS: dict[str, Callable[[Path, Progress], Bundle]] = {"all files": Bundle.open, "files used": Bundle.open_to_use}

PARTS = ("manifest", "checksums", "session", "first run")
"""``manifest`` is reading it and looking for files that are not listed, and the pipeline but for its sessions."""

BACKENDS = ("onnxruntime", "openvino")


class Stopwatch(Progress):
    """Sums the seconds in which checksums are compared."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        start = time.perf_counter()
        with super().stage(title, total) as stage:
            yield stage
        if "checksums" in title:
            self.seconds += time.perf_counter() - start
        elif title.startswith("verify"):
            raise SystemExit(f"{title}: the bundle was made on another machine; remove it from --work")


def opened(path: Path, compared: str, variant: str) -> dict[str, float]:
    """Open a bundle, its variant ``variant``, and answer once: part -> seconds."""
    component, runtime, _ = variant.split("/")
    backend(runtime).require()  # imports the runtime
    picture, watch = np.full((480, 640, 3), 128, np.uint8), Stopwatch()
    began = time.perf_counter()
    bundle = OPENERS[compared](path, watch)
    with of_bundle(bundle, options=OpenOptions({component: variant}), progress=watch) as pipeline:
        made, before = time.perf_counter(), watch.seconds
        pipeline.session(component)
        ready = time.perf_counter()
        if component == "image":
            pipeline.encode_image([picture])
        else:
            pipeline.encode_text(["一只猫在草地上"])
        answered = time.perf_counter()
    return {
        "manifest": made - began - before,
        "checksums": watch.seconds,
        "session": ready - made - (watch.seconds - before),
        "first run": answered - ready,
        "all": answered - began,
    }


def made(size: str, work: Path) -> Path:
    """The bundle of a published size below ``work``, with random weights and small batches; the first call makes it."""
    from random_checkpoint import write_checkpoint
    from torchlift.families.base import LoadOptions
    from torchlift.jobs import JobOptions, build_bundle
    from torchlift.jobs.ship import export
    from torchlift.jobs.source import Source
    from torchlift.signature import Axis
    from torchlift.stages import BenchOptions, BuildOptions
    from torchlift.timing.latency import LatencyOptions

    target = work / f"{size}-opening"
    if not (target / "manifest.json").is_file() or not read_manifest(target).choices:
        file = work / f"{size}-checkpoint" / f"{size}.pt"
        if not file.is_file():
            write_checkpoint(size, file)
        batch = Axis("batch", 1, 1, 2)
        if not (target / "manifest.json").is_file():
            export(Source("chinese-clip", str(file), LoadOptions(axes={"": {"batch": batch}})), target)
        bench = BenchOptions((1,), latency=LatencyOptions(rounds=2, max_runs=2))
        build_bundle(target, JobOptions(BuildOptions(BACKENDS, ("fp32", "bf16")), bench=bench))
    return target


def measure(path: Path, variant: str, rounds: int) -> dict[str, dict[str, float]]:
    """Ways to compare -> part -> median of the seconds over interleaved rounds."""
    opened(path, "files used", variant)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds):
        for compared in (*OPENERS,) if number % 2 else reversed(OPENERS):
            found[compared].append(opened(path, compared, variant))
    return {
        compared: {part: median(run[part] for run in found[compared]) for part in (*PARTS, "all")}
        for compared in OPENERS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoints and bundles are kept")
    parser.add_argument("--model", nargs="+", default=["ViT-B-16", "ViT-H-14"], help="published sizes of Chinese-CLIP")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    from peers import apart

    for size in arguments.model:
        path = made(size, arguments.work).absolute()
        manifest = read_manifest(path)
        names = [choice.variant for choice in manifest.choices.values()]
        table(size, manifest, {name: apart(measure, path, name, arguments.rounds) for name in names}, arguments.rounds)


def table(size: str, manifest: Manifest, measured: dict[str, dict[str, dict[str, float]]], rounds: int) -> None:
    """Print what was measured of one bundle."""
    total = sum(record.size for record in manifest.files.values())
    shown = Table(title=f"{size}: a bundle of {total / 1e9:.2f} GB", title_justify="left", box=None)
    for name in ("variant", "compared"):
        shown.add_column(name)
    for name in ("GB compared", *(f"{part} ms" for part in (*PARTS, "all")), "times as fast"):
        shown.add_column(name, justify="right")
    for name, ways in measured.items():
        used = manifest.size(manifest.variant(name))
        used += manifest.files[manifest.assets["vocabulary"]].size
        for compared, parts in ways.items():
            size_of = total if compared == "all files" else used
            ratio = ways["all files"]["all"] / parts["all"]
            times = [f"{1e3 * parts[part]:.1f}" for part in (*PARTS, "all")]
            shown.add_row(name, compared, f"{size_of / 1e9:.2f}", *times, f"{ratio:.2f}")
    out = Console(width=150, highlight=False)
    out.print(shown)
    out.print(f"{this_machine()}; medians of {rounds} interleaved rounds\n")


if __name__ == "__main__":
    main()
