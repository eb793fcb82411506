"""How long it takes to make boxes of a detector's candidates, by how many of them count.

python benchmarks/nms.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from torchlift.declare.answers import Boxes
from torchlift.machine import this_machine
from torchlift.processing.boxes import found_boxes
from torchlift.processing.image import Frame

CANDIDATES = 25_200
"""Of YOLOv5 at 640 x 640."""

CLASSES = 80
FRAME = Frame(640, 640, 640, 640, 0, 0)


def candidates(things: int, around: int, seed: int = 0) -> np.ndarray:
    """Candidates float32 [25200, 85]: ``around`` boxes with high scores on each of so many things, the rest below."""
    rng = np.random.default_rng(seed)
    made = np.zeros((CANDIDATES, 5 + CLASSES), np.float32)
    made[:, :2] = rng.uniform(0, 640, (CANDIDATES, 2))
    made[:, 2:4] = rng.uniform(5, 100, (CANDIDATES, 2))
    made[:, 4] = 0.2 * rng.random(CANDIDATES) ** 8
    made[:, 5:] = rng.random((CANDIDATES, CLASSES)) ** 20
    count = things * around
    places = np.repeat(rng.uniform(40, 600, (things, 4)) * (1, 1, 0.3, 0.3), around, axis=0)
    made[:count, :4] = places + rng.normal(0, 2, (count, 4))
    made[:count, 4] = rng.uniform(0.3, 1, count)
    made[np.arange(count), 5 + np.repeat(rng.integers(0, CLASSES, things), around)] = 0.95
    return rng.permutation(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    names = tuple(map(str, range(CLASSES)))
    running, scoring = Boxes(names, objectness=True), Boxes(names, objectness=True, confidence=0.001, overlap=0.6)
    cases = [
        ("20 things", running, False, candidates(20, 20)),
        ("300 things", running, False, candidates(300, 20)),
        ("20 things, as they are scored", scoring, True, candidates(20, 20)),
    ]
    for what, declared, every_class, rows in cases:
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            found = found_boxes(declared, rows, FRAME, every_class=every_class)
            seconds.append(time.perf_counter() - start)
        print(
            f"{CANDIDATES:,} candidates, {what}: {len(found.boxes)} boxes, {1000 * statistics.median(seconds):.1f} ms"
        )
    print(f"{this_machine()}; one thread; medians of {rounds} rounds")


if __name__ == "__main__":
    main()
