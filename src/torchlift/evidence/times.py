"""What was measured side by side: times, throughput, and what the GPUs did meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torchlift.evidence.accuracy import Interval
from torchlift.machine import Machine

Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True)
class Entrant:
    """What took part in a benchmark: a variant by its name, or a peer such as ``pytorch``.

    ``precision`` is what it computes in. ``compiled``: whether torch.compile made its kernels; None where that is no
    question. ``cuda_graph``: it replays CUDA graphs.
    """

    name: str
    precision: Precision = "fp32"
    compiled: bool | None = None
    cuda_graph: bool = False


NOISE = 10.0
"""A speed-up is noise where the upper bound of its interval is more than so many times the lower one."""


def is_noise(speedup: Interval) -> bool:
    """Whether the interval of a speed-up is so wide that the speed-up tells nothing."""
    return not speedup.high <= NOISE * speedup.low


@dataclass(frozen=True)
class Latency:
    """Times of one contender at one set of axis sizes, in milliseconds a call over ``runs`` calls: on a GPU by its own
    clock, inputs and outputs in its memory.

    ``throughput`` is samples a second at the median. ``speedup`` is the baseline's median time divided by this
    contender's, paired by round; None for the baseline itself and where there is none. It is ``noisy`` where the bounds
    of its interval are more than a factor of 10 apart: then it tells nothing. ``copied`` is the median time of
    a call that copies inputs to the device and outputs back, by the host's clock; None where there is no device.
    """

    contender: Entrant
    sizes: dict[str, int]
    runs: int
    mean: float
    sd: float
    min: float
    max: float
    median: float
    p95: float
    p99: float
    throughput: float
    speedup: Interval | None = None
    copied: float | None = None
    noisy: bool = False

    @property
    def batch(self) -> int:
        return self.sizes.get("batch", 1)


Slowdown = Literal["power limit", "software temperature", "hardware", "hardware temperature", "power brake"]
"""Why a driver slowed a GPU down."""

CLOCK_STEADY = 0.05
"""The share by which a GPU's clock may move within a benchmark before the result is flagged."""


@dataclass(frozen=True)
class Conditions:
    """What a GPU did while it was measured: the clock of its multiprocessors in MHz (low, median, high over the samples
    taken under load), its temperature in degrees Celsius (low, high), and why the driver slowed it down.
    """

    gpu: str
    clock: tuple[int, int, int]
    temperature: tuple[int, int]
    throttled: tuple[Slowdown, ...] = ()

    @property
    def clock_moved(self) -> bool:
        """Whether the clock moved by more than 5%."""
        low, _, high = self.clock
        return low < (1 - CLOCK_STEADY) * high


@dataclass(frozen=True)
class Ran:
    """The runtime that ran a contender, with its version and provider."""

    contender: Entrant
    runtime: str


@dataclass(frozen=True)
class NotMeasured:
    """A contender that has no times; ``detail`` is the text of the error."""

    contender: Entrant
    detail: str


@dataclass(frozen=True)
class Throughput:
    """Samples a second of a contender that runs on ``devices`` GPUs at once, a process each, at one set of sizes."""

    contender: Entrant
    devices: int
    sizes: dict[str, int]
    samples: float


@dataclass(frozen=True)
class Scaling:
    """What several GPUs achieve together, their conditions meanwhile, and which contenders were not measured so."""

    throughputs: tuple[Throughput, ...] = ()
    conditions: tuple[Conditions, ...] = ()
    failures: tuple[NotMeasured, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """Contenders of one component measured in one run: interleaved, on the same inputs, a process each.

    ``key`` is the hash of all that was asked for: contenders, files, sizes, options, machine. ``files`` maps each
    measured file's path within the bundle to its SHA-256. ``runtimes`` says what ran each contender, ``failures`` which
    have no times. ``conditions`` are the GPUs' meanwhile, ``scaling`` is what several of them achieve together.
    """

    machine: Machine
    at: str
    threads: int
    rounds: int
    baseline: Entrant | None
    latencies: tuple[Latency, ...]
    runtimes: tuple[Ran, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    failures: tuple[NotMeasured, ...] = ()
    key: str = ""
    conditions: tuple[Conditions, ...] = ()
    scaling: Scaling = Scaling()

    def of(self, contender: Entrant) -> tuple[Latency, ...]:
        return tuple(x for x in self.latencies if x.contender == contender)

    def runtime_of(self, contender: Entrant) -> str:
        """What ran a contender; empty where nothing did."""
        return next((x.runtime for x in self.runtimes if x.contender == contender), "")

    def failure_of(self, contender: Entrant) -> NotMeasured | None:
        """Why a contender has no times; None where it did not fail."""
        return next((x for x in self.failures if x.contender == contender), None)

    def failure_as_it_is(self, variant: str) -> NotMeasured | None:
        """The same of a variant without CUDA graphs."""
        plain = (x for x in self.failures if x.contender.name == variant and not x.contender.cuda_graph)
        return next(plain, None)

    def modes_of(self, variant: str) -> tuple[Entrant, ...]:
        """What a variant was measured as and did not fail: as it is, and replaying CUDA graphs."""
        found = dict.fromkeys(x.contender for x in self.latencies if x.contender.name == variant)
        return tuple(sorted((e for e in found if self.failure_of(e) is None), key=lambda e: e.cuda_graph))

    def noisy_at(self, batch: int | None) -> bool:
        """Whether a speed-up at that batch, or at any where None is given, is noise."""
        return any(x.noisy and batch in (None, x.batch) for x in self.latencies)

    def at_batch(self, contender: Entrant, batch: int) -> Latency | None:
        return next((x for x in self.of(contender) if x.batch == batch), None)
