"""The defaults of options, each of which is stated once: in the dataclass that the option fills."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Stated:
    """The default of an option as a dataclass states it: ``Stated("torchlift.timing.latency:LatencyOptions.rounds")``.

    click calls it where a command runs, and shows it as text in the command's help. The dataclass is imported then and
    not before, since that costs more than all of ``torchlift --help``.
    """

    def __init__(self, place: str) -> None:
        self._module, _, path = place.partition(":")
        self._class, _, self._field = path.partition(".")

    def __call__(self) -> Any:
        return getattr(getattr(import_module(self._module), self._class), self._field)

    def __str__(self) -> str:
        return str(self())
