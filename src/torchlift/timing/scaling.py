"""Measures the throughput of several GPUs together: one process for each GPU, the same work at the same time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial

from torchlift.errors import BackendError, telling
from torchlift.evidence import NotMeasured, Scaling, Throughput
from torchlift.messages import entrant_text
from torchlift.progress import SILENT, Progress
from torchlift.signature import BATCH
from torchlift.storage import without_folders
from torchlift.timing.conditions import Watch
from torchlift.timing.latency import Contender, Workload
from torchlift.timing.process import Process, crew

_SECONDS = 2.0
"""Seconds that every process runs. Before, it runs as long without being counted."""


def measure_scaling(
    contenders: Sequence[Contender],
    workloads: Sequence[Workload],
    devices: Sequence[int],
    progress: Progress = SILENT,
    seconds: float = _SECONDS,
) -> Scaling:
    """Samples a second of each contender, on 1, 2, 4, ... and all of ``devices``.

    Contenders that do not run on a GPU are left out. Inputs lie in the GPUs' memory. A contender that fails is listed
    in the failures. A workload that a contender does not run is left out.
    """
    able = [c for c in contenders if c.open_on is not None]
    found: list[Throughput] = []
    failures: list[NotMeasured] = []
    watch = Watch(*devices)
    with progress.stage("measure on several GPUs", len(able)) as stage:
        for contender in able:
            try:
                found += _scaled(contender, workloads, devices, seconds, watch)
            except BackendError as error:
                failures.append(NotMeasured(contender.entrant, without_folders(error.message)))
                name = entrant_text(contender.entrant)
                progress.note(f"{name} is not measured on several GPUs: {telling(failures[-1].detail)}")
            stage.advance()
    return Scaling(tuple(found), watch.conditions(), tuple(failures))


def _scaled(
    contender: Contender, workloads: Sequence[Workload], devices: Sequence[int], seconds: float, watch: Watch
) -> list[Throughput]:
    assert contender.open_on is not None
    found = []
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Process(entrant_text(contender.entrant), contender.python)) for _ in devices]
        threads = stack.enter_context(crew(processes, len(devices)))
        openers = [partial(contender.open_on, device) for device in devices]
        for _ in threads.map(Process.open, processes, openers):
            pass
        for workload in workloads:
            if None in threads.map(lambda p, w=workload: p.ask("load", dict(w.feeds)), processes):
                continue
            for count in counts(len(devices)):
                for meanwhile in (contextlib.nullcontext(), watch.looking()):
                    with meanwhile:
                        rates = [*threads.map(lambda p: p.ask("keep_running", seconds), processes[:count])]
                samples = workload.sizes.get(BATCH, 1) * sum(rates)
                found.append(Throughput(contender.entrant, count, dict(workload.sizes), samples))
    return found


def counts(devices: int) -> list[int]:
    """The numbers of GPUs to measure with: 1, 2, 4, ... and all."""
    powers = [1 << n for n in range(devices.bit_length()) if 1 << n <= devices]
    return [*powers, devices] if devices not in powers else powers
