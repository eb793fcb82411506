"""The steps prepare, build, measure and stream of gpu.py for many subjects: prepared and built side by side, then
measured, a component or its texts on each GPU at a time.

    python benchmarks/gpu_all.py ViT-B-16 RN50 mobilevit-xxs --work bench --tensorrt "LD_LIBRARY_PATH=... python3.10"

Every step is a call of gpu.py, with a log beside the results. While anything is measured nothing is built, and what is
measured has a GPU and a share of the cores of its own. What is not built after ``--patience`` seconds is measured
without.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from captions import CONTEXT
from gpu import CLIP, copy_of, subject_of
from gpu_peers import BATCH
from torchlift.bundle import Bundle
from torchlift.machine import gpus

GPU = str(Path(__file__).with_name("gpu.py"))

COSTS = {"ViT-H-14": 32, "ViT-L-14-336": 18, "ViT-L-14": 9, "ViT-B-16": 4, "RN50": 2}
"""Roughly how long subjects take beside each other to prepare; 1 for all else."""

PROFILES = dict.fromkeys(
    ("ViT-B-16", "RN50"), (*CLIP.profiles, f"image.batch={BATCH}", f"text.batch={BATCH},text.sequence={CONTEXT}")
)
"""Profiles of engines that have further ones, since they are built in a few minutes."""

OURS = ("pytorch", "onnxruntime-cuda")


@dataclass(frozen=True)
class Fleet:
    """The GPUs and cores of this machine, where results go, and how the Python with TensorRT is started."""

    work: Path
    results: Path
    tensorrt: Sequence[str]
    rounds: int
    until: float
    started: float = field(default_factory=time.monotonic)

    def prepared(self, subject: str) -> Path:
        """The file that is there once a subject's bundle is complete."""
        return self.work / f".{subject}.prepared"

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", flush=True)

    def step(self, label: str, gpu: str, *arguments: str, cores: Sequence[int] = (), other: bool = False) -> bool:
        """Call gpu.py on a GPU and some cores or all, in the Python of TensorRT if ``other``."""
        python = self.tensorrt if other and self.tensorrt else [sys.executable]
        limit = None if arguments[0] in ("measure", "stream") else max(1.0, self.until - time.monotonic())
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpu}
        pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
        command = [*pinned, "env", *python, GPU, *arguments, "--work", str(self.work)]
        with (self.results / f"{label}.log").open("w") as log:
            try:
                code = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=limit).returncode
            except subprocess.TimeoutExpired:
                code = -1
        self.say(f"{label} {'done' if code == 0 else 'FAILED'}")
        return code == 0


def visible() -> list[str]:
    """The GPUs that this process may see, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else [str(number) for number in range(len(gpus()))]


def shares(subjects: Sequence[str], cores: int) -> dict[str, list[int]]:
    """Cores of each subject while all are prepared, at least one, by what they cost."""
    total, begin, found = sum(COSTS.get(s, 1) for s in subjects), 0.0, {}
    for subject in subjects:
        end = begin + cores * COSTS.get(subject, 1) / total
        found[subject] = [*range(int(begin), max(int(begin) + 1, int(end)))]
        begin = end
    return found


def build_subject(fleet: Fleet, subject: str, gpu: str, cores: Sequence[int]) -> None:
    """Prepare a subject, unless it is, and build all of its variants, each engine in a process of its own."""
    prepared = fleet.prepared(subject)
    if not prepared.is_file() and not fleet.step(f"{subject}.prepare", gpu, "prepare", subject, cores=cores):
        return
    prepared.touch()
    components = Bundle.open(fleet.work / subject).manifest.components
    engines = [(c.name, recipe) for c in components for recipe in subject_of(subject).recipes["tensorrt"]]
    profiles = [f"--profile={profile}" for profile in PROFILES.get(subject, ())]
    for component, recipe in engines:
        copy_of(subject, fleet.work, "tensorrt", component, recipe)
    with ThreadPoolExecutor() as pool:
        building = []
        for component, recipe in engines:
            asked = ["build", subject, "--backend", "tensorrt", "--component", component, "--recipe", recipe, *profiles]
            label = f"{subject}.{component}.tensorrt-{recipe}"
            building.append(pool.submit(fleet.step, label, gpu, *asked, other=True))
        asked = [word for name in OURS for word in ("--backend", name)]
        fleet.step(f"{subject}.ours", gpu, "build", subject, *asked)
        for one in building:
            one.result()


class Measurement(NamedTuple):
    """A call of gpu.py that measures: what its log is named after, and its arguments."""

    label: str
    arguments: list[str]


def measurements(fleet: Fleet, subjects: Sequence[str]) -> Iterator[Measurement]:
    """Every component of the subjects that are prepared, and texts of realistic length."""
    for subject in subjects:
        if not fleet.prepared(subject).is_file():
            continue
        asked = ["--tensorrt", shlex.join(fleet.tensorrt), "--rounds", str(fleet.rounds), "--json"]
        for component in Bundle.open(fleet.work / subject).manifest.components:
            label = f"{subject}.{component.name}"
            result = str(fleet.results / f"{label}.json")
            yield Measurement(label, ["measure", subject, "--component", component.name, *asked, result])
        if subject_of(subject) is CLIP:
            label = f"{subject}.text.stream"
            yield Measurement(label, ["stream", subject, *asked, str(fleet.results / f"{label}.json")])


def measure_on(fleet: Fleet, gpu: str, cores: Sequence[int], waiting: Iterator[Measurement]) -> None:
    """Measure what waits on one GPU until nothing is left."""
    for label, arguments in waiting:
        fleet.step(label, gpu, *arguments, cores=cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "subjects", nargs="+", help="sizes such as ViT-B-16 or mobilevit-xxs, those that take longest first"
    )
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoints and bundles are kept")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where results and logs go")
    parser.add_argument("--tensorrt", default="", help="NAME=VALUE ... PYTHON: where TensorRT is")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--patience", type=float, default=3600.0, help="seconds until builds are given up")
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + given.patience
    fleet = Fleet(given.work, given.results, shlex.split(given.tensorrt), given.rounds, until)
    devices, cores = visible(), sorted(os.sched_getaffinity(0))
    if not devices:
        parser.error("there is no NVIDIA GPU")
    own = shares(given.subjects, len(cores))
    with ThreadPoolExecutor(len(given.subjects)) as pool:
        building = [
            pool.submit(build_subject, fleet, subject, gpu, [cores[i] for i in own[subject]])
            for subject, gpu in zip(given.subjects, itertools.cycle(devices), strict=False)
        ]
    share, waiting = len(cores) // len(devices), iter([*measurements(fleet, given.subjects)])
    with ThreadPoolExecutor(len(devices)) as pool:
        measuring = [
            pool.submit(measure_on, fleet, gpu, cores[number * share : (number + 1) * share], waiting)
            for number, gpu in enumerate(devices)
        ]
    for done in (*building, *measuring):
        done.result()


if __name__ == "__main__":
    sys.exit(main())
