"""What this machine can do with torchlift: its processor, its backends, and what is missing for the rest."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from torchlift.backends import BACKENDS, Availability, backend
from torchlift.machine import Machine, installed_version, this_machine
from torchlift.manifest import Precision


@dataclass(frozen=True)
class Finding:
    """A backend, or the torch side: whether it works here, and the precisions that the machine runs with it."""

    name: str
    state: Availability
    precisions: tuple[Precision, ...] = ()


@dataclass(frozen=True)
class Report:
    """``python`` is the interpreter's release."""

    machine: Machine
    python: str
    findings: tuple[Finding, ...]


def examine() -> Report:
    """Look at this machine; imports each runtime that is installed, never torch."""
    findings = [
        Finding(
            name, backend(name).available(), tuple(p for p in backend(name).precisions if backend(name).supports(p).ok)
        )
        for name in BACKENDS
    ]
    return Report(this_machine(), platform.python_version(), (_torch_side(), *findings))


def _torch_side() -> Finding:
    wanted = ("torch", "transformers", "onnxscript")
    found = {name: installed_version(name) for name in wanted}
    missing = [name for name, version in found.items() if version is None]
    if missing:
        state = Availability(False, f"{', '.join(missing)} not installed", 'pip install "torchlift[torch]"')
    else:
        state = Availability(True, ", ".join(f"{name} {version}" for name, version in found.items()))
    return Finding("export (torch)", state)
