"""What the machine is that a result was obtained on: processor, instructions, cores, memory, system."""

from __future__ import annotations

import functools
import math
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8",
                  "asimd", "asimddp", "bf16", "sve")  # fmt: skip


_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of processor time a period, and the period; ``max`` for no quota."""


@dataclass(frozen=True)
class Machine:
    """``instructions`` are those that decide which kernels a runtime picks; ``memory`` is in bytes."""

    processor: str
    instructions: tuple[str, ...]
    cores: int
    memory: int
    system: str

    def runs_like(self, other: Machine) -> bool:
        """Whether what was found on one holds on the other: the same processor, instructions and system."""
        return (self.processor, self.instructions, self.system) == (other.processor, other.instructions, other.system)

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.memory / 2**30:.0f} GiB, {self.system}"


def usable_cores() -> int:
    """The number of cores that this process may keep busy: its affinity, and its container's quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


@functools.cache
def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    name, flags = _processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return Machine(
        processor=name,
        instructions=tuple(f for f in _TELLING_FLAGS if f in flags),
        cores=usable_cores(),
        memory=memory,
        system=f"{platform.system()} {platform.machine()}",
    )


def _processor() -> tuple[str, frozenset[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in text.split("\n\n", 1)[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields.get("flags") or fields.get("Features") or ""
    return fields.get("model name") or platform.machine(), frozenset(flags.split())


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, without importing it; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
