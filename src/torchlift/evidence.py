"""What verification and measurement found, as frozen results that know where they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone

from torchlift.machine import Machine


def now() -> str:
    """The time in ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Provenance:
    """Where a result was obtained; it holds only for this processor, this runtime and these files.

    ``runtime`` is a name with its version, for example ``onnxruntime 1.31.1``; ``files`` maps each file's path
    within the bundle to its SHA-256; ``at`` is the time in ISO 8601, UTC.
    """

    machine: Machine
    runtime: str
    files: dict[str, str]
    at: str

    def holds(self, machine: Machine, runtime: str, files: dict[str, str]) -> bool:
        """Whether the result can be trusted on ``machine`` with ``runtime`` and ``files``."""
        return (
            self.machine.processor == machine.processor
            and self.machine.instructions == machine.instructions
            and self.machine.system == machine.system
            and self.runtime == runtime
            and self.files == files
        )


@dataclass(frozen=True)
class Difference:
    """How one output differs from PyTorch's over one golden.

    Absolute differences are in the unit of the output; relative ones are |a - b| / |b|, over the elements with
    |b| > 1e-3 * ``scale``. ``scale`` is the largest magnitude of the reference. ``cosine`` is the smallest over the
    rows (the first axis) that are longer than 1e-3 of the longest: shorter ones have no direction. Rows of a single
    value make one row together. Elements that are NaN or infinite on either side are left out; ``nan`` and ``inf``
    count those of the candidate, ``nonfinite_mismatch`` those where the two sides disagree.
    """

    max_abs: float
    mean_abs: float
    median_abs: float
    max_rel: float
    mean_rel: float
    median_rel: float
    cosine: float
    nan: int
    inf: int
    nonfinite_mismatch: int
    scale: float

    @property
    def max_scaled(self) -> float:
        """The largest absolute difference as a share of the output's scale."""
        return self.max_abs / self.scale if self.scale else self.max_abs


@dataclass(frozen=True)
class Tolerance:
    """What a variant of a precision may differ: ``scaled`` bounds the largest difference as a share of the output's
    largest magnitude, ``cosine`` is the smallest that passes.
    """

    scaled: float
    cosine: float


@dataclass(frozen=True)
class GoldenCheck:
    """One output of one golden compared; ``golden`` is min, opt or max, or names what was varied."""

    golden: str
    output: str
    difference: Difference


@dataclass(frozen=True)
class Verification:
    """Whether a variant agrees with PyTorch at every golden and treats each row of a batch on its own.

    ``invariance`` compares each row of a batch with the same row run in other company; it is empty where the
    component has no batch axis. ``failures`` says in words what was out of tolerance.
    """

    provenance: Provenance
    tolerance: Tolerance
    checks: tuple[GoldenCheck, ...]
    invariance: tuple[GoldenCheck, ...]
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def worst(self) -> GoldenCheck:
        """The golden and output with the largest scaled difference."""
        return max(self.checks, key=lambda c: c.difference.max_scaled)


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its 95% confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """Times of one contender at one set of axis sizes, in milliseconds a call over ``runs`` calls.

    ``throughput`` is samples a second at the median. ``speedup`` is the baseline's median time divided by this
    contender's, paired by round; None for the baseline itself and where there is none.
    """

    contender: str
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

    @property
    def batch(self) -> int:
        return self.sizes.get("batch", 1)


@dataclass(frozen=True)
class Benchmark:
    """Contenders of one component measured in one run: interleaved, on the same inputs, a process each.

    ``key`` is the hash of all that was asked for: contenders, files, sizes, options, machine.
    ``files`` maps each measured file's path within the bundle to its SHA-256; ``runtimes`` maps a contender to the
    runtime that ran it, with its version and provider; ``failures`` says why a contender has no times.
    """

    machine: Machine
    at: str
    threads: int
    rounds: int
    baseline: str | None
    latencies: tuple[Latency, ...]
    runtimes: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    key: str = ""

    def of(self, contender: str) -> tuple[Latency, ...]:
        return tuple(x for x in self.latencies if x.contender == contender)

    def at_batch(self, contender: str, batch: int) -> Latency | None:
        return next((x for x in self.of(contender) if x.batch == batch), None)


@dataclass(frozen=True)
class Choice:
    """Which variant of a component serves, and why each of the others does not (variant name -> reason)."""

    variant: str
    reason: str
    others: dict[str, str] = field(default_factory=dict)
