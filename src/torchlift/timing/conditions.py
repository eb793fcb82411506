"""Watches the GPUs while something is measured: clocks, temperature, and whether the driver slowed them down."""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torchlift.evidence import Conditions, Slowdown
from torchlift.machine import Gpu, nvml_handles

_PERIOD = 0.05
"""Seconds between two samples."""

_REASONS: dict[str, Slowdown] = {
    "nvmlClocksEventReasonSwPowerCap": "power limit",
    "nvmlClocksEventReasonSwThermalSlowdown": "software temperature",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "hardware temperature",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}
"""NVML's name of a reason -> how it is reported. A clock that is low since nothing runs, or that a user set, is not a
reason."""


@dataclass
class _Seen:
    clocks: list[int] = field(default_factory=list)
    temperatures: list[int] = field(default_factory=list)
    reasons: set[Slowdown] = field(default_factory=set)


class Watch:
    """Collects samples of these GPUs (by number): clock, temperature and reasons for a slow-down.

    Only samples of a GPU under load count.
    """

    def __init__(self, *devices: int) -> None:
        self._seen: dict[int, _Seen] = {index: _Seen() for index in devices if index < len(nvml_handles())}

    def sample(self) -> None:
        """Take one sample of each GPU. A GPU on which nothing runs is passed over."""
        for index, seen in self._seen.items():
            _look(nvml_handles()[index][1], seen)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Take samples in the background until the block ends."""
        if not self._seen:
            yield
            return
        done = threading.Event()

        def keep_looking() -> None:
            while not done.wait(_PERIOD):
                self.sample()

        thread = threading.Thread(target=keep_looking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def conditions(self) -> tuple[Conditions, ...]:
        """A summary of the samples so far. A GPU that was never under load is left out."""
        described: list[Gpu] = [gpu for gpu, _ in nvml_handles()]
        return tuple(
            Conditions(
                gpu=str(described[index]),
                clock=(min(seen.clocks), round(statistics.median(seen.clocks)), max(seen.clocks)),
                temperature=(min(seen.temperatures), max(seen.temperatures)),
                throttled=tuple(sorted(seen.reasons)),
            )
            for index, seen in sorted(self._seen.items())
            if seen.clocks
        )


def _look(handle: Any, seen: _Seen) -> None:
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        if not pynvml.nvmlDeviceGetUtilizationRates(handle).gpu:
            return
        clock = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
        temperature = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
        bits = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        seen.clocks.append(clock)
        seen.temperatures.append(temperature)
        seen.reasons |= {said for name, said in _REASONS.items() if bits & getattr(pynvml, name, 0)}
