"""Watches the GPUs while something is measured: clocks, temperature, and whether the driver slowed them down."""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torchlift.evidence import Conditions
from torchlift.machine import Gpu, nvml_handles

_PERIOD = 0.05
"""Seconds between two samples."""

_REASONS = {
    "nvmlClocksEventReasonSwPowerCap": "power limit",
    "nvmlClocksEventReasonSwThermalSlowdown": "temperature (software)",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slow-down",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "temperature (hardware)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}
"""NVML's name of a bit -> what it means. A clock that is low because nothing runs, or was set so, is no slow-down."""


@dataclass
class _Seen:
    clocks: list[int] = field(default_factory=list)
    temperatures: list[int] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)


class Watch:
    """Samples of the GPUs of these ordinals that were under load while it kept looking."""

    def __init__(self, *devices: int) -> None:
        self._seen: dict[int, _Seen] = {index: _Seen() for index in devices if index < len(nvml_handles())}

    def sample(self) -> None:
        """Look at each GPU once; one on which nothing runs is passed over."""
        for index, seen in self._seen.items():
            _look(nvml_handles()[index][1], seen)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Sample in the background until the block ends."""
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
        """What was seen so far; nothing of a GPU that was never under load."""
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
