"""How long ``tl.ship(net, ...)`` takes for a small network without data, stage by stage: each run in a new process.

    python benchmarks/first_bundle.py --runs 3

The network is a convolutional classifier of 38,000 weights. The clock starts where a user calls ``ship``, with torch
and torchlift imported, and stops where the bundle is complete. The table has the median of each stage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import torchlift as tl
from torchlift.progress import Stage


class Clock(tl.Progress):
    """Adds up the seconds of the outermost stages, by their first word: export, verify, measure, ..."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._depth = 0

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        start, self._depth = time.perf_counter(), self._depth + 1
        try:
            yield Stage()
        finally:
            self._depth -= 1
            if not self._depth:
                word = title.partition(" ")[0]
                self.seconds[word] = self.seconds.get(word, 0.0) + time.perf_counter() - start


def network() -> nn.Module:
    """The classifier, the same whenever it is built."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip


def once() -> None:
    """Ship it, and print the seconds of each stage and of all as JSON."""
    clock, net = Clock(), network()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        tl.ship(net, Path(folder) / "net", example=torch.zeros(1, 3, 32, 32), progress=clock)
        total = time.perf_counter() - start
    print(json.dumps({**clock.seconds, "other": total - sum(clock.seconds.values()), "all": total}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        once()
        return
    found = []
    for _ in range(arguments.runs):
        done = subprocess.run([sys.executable, __file__, "--once"], check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"| stage | seconds, median of {arguments.runs} |\n|---|---:|")
    for stage in found[0]:
        print(f"| {stage} | {statistics.median(run.get(stage, 0.0) for run in found):.1f} |")


if __name__ == "__main__":
    main()
