"""What the machine is that a result was obtained on, and what of it a call runs on."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torchlift.errors import InputError

_TELLING_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_bf16", "amx_int8",
                  "asimd", "asimddp", "bf16", "sve")  # fmt: skip


_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""The container's quota: microseconds of processor time per period, and the period. ``max``: no quota."""

_MOST_THREADS, _MOST_GPUS = 1024, 1024
"""More of them are a slip of the keyboard, and runtimes end the process or never return."""


@dataclass(frozen=True)
class Machine:
    """A machine.

    ``instructions`` are the instruction sets that decide which kernels a runtime uses. ``memory`` is in bytes. ``gpus``
    are the names of NVIDIA GPUs, in the driver's order.
    """

    processor: str
    instructions: tuple[str, ...]
    cores: int
    memory: int
    system: str
    gpus: tuple[str, ...] = ()

    def runs_like(self, other: Machine) -> bool:
        """Whether a result from one machine holds on the other: same processor, instructions and system.

        GPUs are not compared here. A result that holds for one GPU only names it in the version of the runtime.
        """
        return (self.processor, self.instructions, self.system) == (other.processor, other.instructions, other.system)

    def __str__(self) -> str:
        counts = Counter(self.gpus)
        gpus = "".join(f", {f'{n} ' if n > 1 else ''}{name}" for name, n in counts.items())
        return f"{self.processor}, {self.cores} cores, {self.memory / 2**30:.0f} GiB, {self.system}{gpus}"


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    ``capability`` is its compute capability, such as 9.0 for Hopper. ``memory`` is in bytes, 0 where it is not known.
    """

    name: str
    capability: str
    memory: int
    driver: str

    def __str__(self) -> str:
        return f"{self.name}, driver {self.driver}"


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that this process may use, in the order of the bus.

    Empty where the driver or nvidia-ml-py is missing. CUDA counts GPUs of different kinds from the fastest on. With
    CUDA_DEVICE_ORDER=PCI_BUS_ID it counts in the order of the bus, too.
    """
    return tuple(gpu for gpu, _ in nvml_handles())


@functools.cache
def nvml_handles() -> tuple[tuple[Gpu, Any], ...]:
    """The GPUs of :func:`gpus` with their NVML handles. NVML is started, and runs until the process ends."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        visible = _visible([_text(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles])
        return tuple((_describe(handles[i], driver), handles[i]) for i in visible)
    except pynvml.NVMLError:
        return ()


def _describe(handle: Any, driver: str) -> Gpu:
    import pynvml

    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = _text(pynvml.nvmlDeviceGetName(handle))
    memory = 0
    with contextlib.suppress(pynvml.NVMLError):  # a GPU that shares the host's memory reports none
        memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Gpu(name, f"{major}.{minor}", memory, driver)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _visible(identifiers: list[str]) -> list[int]:
    """The positions of the GPUs that CUDA_VISIBLE_DEVICES names, in its order, up to its first invalid entry."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is None:
        return [*range(len(identifiers))]
    found: list[int] = []
    for entry in (part.strip() for part in said.split(",")):
        places = [i for i, uuid in enumerate(identifiers) if entry and uuid.startswith(entry)]
        if entry.isdecimal() and int(entry) < len(identifiers):
            places = [int(entry)]
        if len(places) != 1 or places[0] in found:
            break
        found += places
    return found


def usable_cores() -> int:
    """The number of cores that this process may use, by its affinity and its container's quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


@dataclass(frozen=True)
class RunOn:
    """What of the machine a call runs on: ``RunOn(threads=4)``, or ``RunOn(device=1)`` for the second GPU.

    ``threads`` work on one call, 0 means every usable core. ``device`` is the ordinal of a GPU. What runs on the
    processor does not read it. Raises InputError for other numbers than 0 to 1024 threads, and for a device that is
    negative or above 1023.
    """

    threads: int = 0
    device: int = 0

    def __post_init__(self) -> None:
        if not _is_within(self.threads, _MOST_THREADS):
            raise InputError(
                f"the number of threads is {self.threads!r}",
                remedy=f"Use 1 to {_MOST_THREADS}, or 0 for every usable core: there are {usable_cores()} here.",
            )
        if not _is_within(self.device, _MOST_GPUS - 1):
            raise InputError(
                f"the number of the GPU is {self.device!r}",
                remedy=f"GPUs are counted from 0 on: this process may use {len(gpus())}.",
            )

    @property
    def cores(self) -> int:
        """The number of threads, with 0 replaced by the number of usable cores."""
        return self.threads or usable_cores()


def _is_within(number: object, most: int) -> bool:
    return type(number) is int and 0 <= number <= most


HERE = RunOn()
"""Every usable core, or the first GPU."""


@dataclass(frozen=True)
class Availability:
    """Whether something can be used or made here. ``detail`` says which release and device, or why not; ``remedy`` says
    what to do.
    """

    ok: bool
    detail: str = ""
    remedy: str = ""


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
        gpus=tuple(gpu.name for gpu in gpus()),
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
