"""Measures the latency of several contenders side by side: one process each, interleaved rounds, the same inputs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from torchlift.backends.base import Session
from torchlift.errors import BackendError, InputError, telling
from torchlift.evidence import Benchmark, Entrant, Interval, Latency, NotMeasured, Ran, is_noise, now
from torchlift.interpreter import Interpreter
from torchlift.machine import HERE, RunOn, this_machine, usable_cores
from torchlift.messages import entrant_text
from torchlift.progress import SILENT, Progress
from torchlift.signature import BATCH
from torchlift.storage import without_folders
from torchlift.timing.conditions import Watch
from torchlift.timing.process import Here, Process, crew

_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
            2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip
"""The 97.5% quantiles of Student's t for 1 to 20 degrees of freedom."""

_CORES_EACH = 2
"""Contenders get ready several at a time, so that each has this many cores."""


@dataclass(frozen=True)
class Contender:
    """Something to time, for example a variant; ``entrant`` is what it is called in the results.

    ``open`` opens its session. ``open_on`` opens it on the GPU of a given number; it is None for what does not run on a
    GPU. Both are called in the contender's own process, so they must be picklable. ``python`` is the interpreter of
    that process; None is this one. What cannot be pickled is not ``apart``: it is timed in this process.
    """

    entrant: Entrant
    open: Callable[[], Session]
    open_on: Callable[[int], Session] | None = None
    python: Interpreter | None = None
    apart: bool = True


@dataclass(frozen=True)
class Workload:
    """Inputs to time, and the sizes of their axes."""

    sizes: Mapping[str, int]
    feeds: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class LatencyOptions:
    """How long to measure.

    In each of ``rounds`` rounds every contender gets one turn: first ``warmups`` calls that do not count, then as many
    calls as fit into ``turn_seconds``, at least ``min_runs`` and at most ``max_runs``. Before a turn there is a pause
    of ``pause_seconds``, in which the threads of the contender before stop spinning.
    """

    rounds: int = 10
    turn_seconds: float = 0.4
    warmups: int = 1
    min_runs: int = 1
    max_runs: int = 50
    pause_seconds: float = 0.05

    def __post_init__(self) -> None:
        if self.rounds < 2:
            raise InputError(f"{self.rounds} rounds give no interval", remedy="Measure at least 2 rounds.")


class Turn(NamedTuple):
    """Seconds of each call without copies, and of as many calls with copies.

    On a processor there are none with copies.
    """

    plain: list[float]
    copied: list[float]


def measure_latency(
    contenders: Sequence[Contender],
    workloads: Sequence[Workload],
    *,
    baseline: Entrant | None = None,
    options: LatencyOptions | None = None,
    files: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
    on: RunOn = HERE,
) -> Benchmark:
    """Time every contender on every workload. A contender that fails is listed in ``failures``, and the others go on.
    Sizes at which all of them fail are left out, and a note says so. Where nothing is measured at all, all are listed.

    The threads of ``on`` are only recorded, since the contenders' openers set them. Its GPU is watched meanwhile.

    Raises BackendError where ``baseline`` is not among the contenders.
    """
    options = options or LatencyOptions()
    names = [c.entrant for c in contenders]
    if baseline is not None and baseline not in names:
        raise BackendError(
            f"the baseline {entrant_text(baseline)!r} is none of the contenders",
            remedy=f"Choose one of {', '.join(map(entrant_text, names))}.",
        )
    failed: dict[Entrant, str] = {}
    latencies: list[Latency] = []
    with contextlib.ExitStack() as stack:
        processes = _start(contenders, stack, failed, progress)
        runtimes = {entrant: process.runtime for entrant, process in processes.items()}
        watch = Watch(on.device)
        stack.enter_context(watch.looking())
        with progress.stage("measure side by side", len(workloads) * options.rounds) as stage:
            for number, workload in enumerate(workloads):
                times, refused = _interleave(processes, workload, options, failed, stage.advance)
                if refused and not latencies and number == len(workloads) - 1:
                    failed |= refused
                elif refused:
                    said = "; ".join(map(telling, dict.fromkeys(refused.values())))
                    progress.note(f"nothing is measured at {_at(workload)}, since no contender runs it: {said}")
                latencies += _summaries(times, workload, baseline)
    return Benchmark(
        machine=this_machine(),
        at=now(),
        threads=on.cores,
        rounds=options.rounds,
        baseline=baseline if baseline in runtimes and baseline not in failed else None,
        latencies=tuple(latencies),
        runtimes=tuple(Ran(entrant, runtime) for entrant, runtime in runtimes.items()),
        files=dict(files or {}),
        failures=tuple(NotMeasured(entrant, detail) for entrant, detail in failed.items()),
        conditions=watch.conditions(),
    )


def _start(
    contenders: Sequence[Contender], stack: contextlib.ExitStack, failed: dict[Entrant, str], progress: Progress
) -> dict[Entrant, Process | Here]:
    processes: dict[Entrant, Process | Here] = {}
    openers = []
    for contender in contenders:
        try:
            name = entrant_text(contender.entrant)
            process: Process | Here = Process(name, contender.python) if contender.apart else Here(name)
            stack.enter_context(process)
            processes[contender.entrant] = process
            openers.append(contender.open)
        except BackendError as error:
            failed[contender.entrant] = without_folders(error.message)

    def open_(process: Process | Here, opener: Callable[[], Session]) -> BackendError | None:
        try:
            process.open(opener)
        except BackendError as error:
            return error
        return None

    opened, started = {}, [*processes.values()]
    with progress.stage("open in a process each", len(started)) as stage, crew(started, _at_once()) as threads:
        answers = threads.map(open_, started, openers)
        for (entrant, process), refused in zip(processes.items(), answers, strict=True):
            if refused is None:
                opened[entrant] = process
            else:
                failed[entrant] = without_folders(refused.message)
                process.close()
            stage.advance()
    return opened


def _at_once() -> int:
    """How many contenders may get ready at a time. Opening and compiling keeps some cores busy."""
    return max(1, usable_cores() // _CORES_EACH)


def _interleave(
    processes: dict[Entrant, Process | Here],
    workload: Workload,
    options: LatencyOptions,
    failed: dict[Entrant, str],
    advance: Callable[[], None],
) -> tuple[dict[Entrant, list[Turn]], dict[Entrant, str]]:
    """Contender -> its turn in each round; and where all refuse the inputs, which is no fault of theirs, contender ->
    why. Contenders that do not run inputs of these sizes are left out.
    """
    runs: dict[Entrant, int] = {}
    times: dict[Entrant, list[Turn]] = {}

    def fail(name: Entrant, said: str) -> None:
        failed[name] = said
        processes.pop(name).close()
        times.pop(name, None)

    def turn(name: Entrant, method: str, *arguments: object) -> Any:
        """What a contender answers, or an error."""
        time.sleep(options.pause_seconds)
        try:
            return processes[name].ask(method, *arguments)
        except BackendError as error:
            return error

    def load(name: Entrant) -> float | BackendError | None:
        seconds: float | BackendError | None = turn(name, "load", dict(workload.feeds))
        return seconds

    names = list(processes)
    with crew([*processes.values()], _at_once()) as threads:
        loaded = dict(zip(names, threads.map(load, names), strict=True))
    refused = {n: without_folders(answer.message) for n, answer in loaded.items() if isinstance(answer, BackendError)}
    if refused and len(refused) == len(names):
        for _ in range(options.rounds):
            advance()
        return {}, refused
    for name, said in refused.items():
        fail(name, said)
    for name, answer in loaded.items():
        if isinstance(answer, float):
            runs[name] = int(np.clip(options.turn_seconds / max(answer, 1e-6), options.min_runs, options.max_runs))
            times[name] = []
    for round_ in range(options.rounds):
        names = list(times)
        for name in names[round_ % max(len(names), 1) :] + names[: round_ % max(len(names), 1)]:
            taken = turn(name, "run", options.warmups, runs[name])
            if isinstance(taken, BackendError):
                fail(name, without_folders(taken.message))
            else:
                times[name].append(Turn(*taken))
        advance()
    return times, {}


def _at(workload: Workload) -> str:
    return ", ".join(f"{name} {size}" for name, size in workload.sizes.items()) or "the only sizes"


def _summaries(times: Mapping[Entrant, list[Turn]], workload: Workload, baseline: Entrant | None) -> list[Latency]:
    summaries = []
    plain = {name: [turn.plain for turn in turns] for name, turns in times.items()}
    reference = plain.get(baseline) if baseline else None
    for name, rounds in plain.items():
        ms = 1e3 * np.concatenate([np.asarray(r) for r in rounds])
        median = float(np.median(ms))
        copied = [seconds for turn in times[name] for seconds in turn.copied]
        ratio = speedup(reference, rounds) if reference and name != baseline else None
        summaries.append(
            Latency(
                contender=name,
                sizes=dict(workload.sizes),
                runs=len(ms),
                mean=float(ms.mean()),
                sd=float(ms.std(ddof=1)) if len(ms) > 1 else 0.0,
                min=float(ms.min()),
                max=float(ms.max()),
                median=median,
                p95=float(np.percentile(ms, 95)),
                p99=float(np.percentile(ms, 99)),
                throughput=1e3 * workload.sizes.get(BATCH, 1) / median,
                speedup=ratio,
                copied=1e3 * float(np.median(copied)) if copied else None,
                noisy=ratio is not None and is_noise(ratio),
            )
        )
    return summaries


def speedup(baseline: Sequence[Sequence[float]], contender: Sequence[Sequence[float]]) -> Interval:
    """How many times as fast as the baseline a contender is, with a 95% interval.

    Both arguments are the times of each round, of at least two rounds. In each round the ratio is (baseline's median
    time / contender's median time), so that a drift of the machine cancels. The value is the geometric mean of the
    ratios, and the interval is Student's t on their logarithms.
    """
    logs = np.log([np.median(b) / np.median(c) for b, c in zip(baseline, contender, strict=True)])
    half = _student(len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    low, value, high = np.exp([logs.mean() - half, logs.mean(), logs.mean() + half])
    return Interval(float(value), float(low), float(high))


def _student(freedom: int) -> float:
    """The 97.5% quantile of Student's t. Beyond the table it is an approximation that is good to 0.01."""
    return _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96 + 2.4 / freedom
