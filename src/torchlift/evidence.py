"""What conversion, verification, scoring and measurement found, as frozen results that know where they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Literal

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
        return self.machine.runs_like(machine) and self.runtime == runtime and self.files == files


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


REPLAYED = ", replayed"
"""What the name of a golden ends in where the answer to it was replayed from a CUDA graph."""


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
    def replays(self) -> bool:
        """Whether what it answers when it replays CUDA graphs was compared too; False where it cannot replay them."""
        return any(check.golden.endswith(REPLAYED) for check in self.checks)

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

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Latency:
    """Times of one contender at one set of axis sizes, in milliseconds a call over ``runs`` calls: on a GPU by its own
    clock, inputs and outputs in its memory.

    ``throughput`` is samples a second at the median. ``speedup`` is the baseline's median time divided by this
    contender's, paired by round; None for the baseline itself and where there is none. ``copied`` is the median time of
    a call that copies inputs to the device and outputs back, by the host's clock; None where there is no device.
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
    copied: float | None = None

    @property
    def batch(self) -> int:
        return self.sizes.get("batch", 1)


@dataclass(frozen=True)
class Conditions:
    """What a GPU did while it was measured: the clock of its multiprocessors in MHz (low, median, high over the samples
    taken under load), its temperature in degrees Celsius (low, high), and the reasons that the driver gave for slowing
    it down.
    """

    gpu: str
    clock: tuple[int, int, int]
    temperature: tuple[int, int]
    throttled: tuple[str, ...] = ()

    @property
    def moved(self) -> str:
        """What may have moved the times, in words; empty where nothing did."""
        low, _, high = self.clock
        said = [f"the clock moved from {low} to {high} MHz"] if low < (1 - CLOCK_STEADY) * high else []
        return ", ".join([*said, *(f"slowed down: {reason}" for reason in self.throttled)])


CLOCK_STEADY = 0.05
"""The share by which a GPU's clock may move within a benchmark before the result is flagged."""


@dataclass(frozen=True)
class Throughput:
    """Samples a second of a contender that runs on ``devices`` GPUs at once, a process each, at one set of sizes."""

    contender: str
    devices: int
    sizes: dict[str, int]
    samples: float


@dataclass(frozen=True)
class Scaling:
    """What several GPUs achieve together, their conditions meanwhile, and why a contender was not measured so."""

    throughputs: tuple[Throughput, ...] = ()
    conditions: tuple[Conditions, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


GRAPHED = " + CUDA graph"
"""What the name of a contender ends in that replays CUDA graphs."""


@dataclass(frozen=True)
class Benchmark:
    """Contenders of one component measured in one run: interleaved, on the same inputs, a process each.

    ``key`` is the hash of all that was asked for: contenders, files, sizes, options, machine.
    ``files`` maps each measured file's path within the bundle to its SHA-256; ``runtimes`` maps a contender to the
    runtime that ran it, with its version and provider; ``failures`` says why a contender has no times. ``conditions``
    are the GPUs' under it, ``scaling`` is what several of them achieve together.
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
    conditions: tuple[Conditions, ...] = ()
    scaling: Scaling = Scaling()

    def of(self, contender: str) -> tuple[Latency, ...]:
        return tuple(x for x in self.latencies if x.contender == contender)

    def modes_of(self, variant: str) -> tuple[str, ...]:
        """The contenders that a variant was measured as and did not fail: as it is, and replaying CUDA graphs."""
        return tuple(n for n in (variant, variant + GRAPHED) if self.of(n) and n not in self.failures)

    def at_batch(self, contender: str, batch: int) -> Latency | None:
        return next((x for x in self.of(contender) if x.batch == batch), None)


@dataclass(frozen=True)
class KeptNode:
    """A node that stayed in FP32, the PyTorch module it came from, and why."""

    node: str
    operator: str
    module: str
    reason: str


@dataclass(frozen=True)
class Repair:
    """Nodes that were moved back to FP32 because the task or the numerics suffered from them.

    ``before`` and ``after`` are what was lost without and with the repair, in the words of ``measure``; ``share`` is
    what remained converted; ``evaluations`` counts the graphs that were tried to find the nodes.
    """

    nodes: tuple[str, ...]
    measure: str
    before: float
    after: float
    share: float
    evaluations: int
    held: bool


@dataclass(frozen=True)
class Conversion:
    """What a pass did to a component's graph: ``converted`` of the ``candidates`` (nodes that the format can hold).

    ``calibration`` says in words what the ranges come from; empty where none are needed.
    """

    converted: int
    candidates: int
    kept: tuple[KeptNode, ...] = ()
    calibration: str = ""
    repair: Repair | None = None

    @property
    def share(self) -> float:
        return self.converted / self.candidates if self.candidates else 0.0


@dataclass(frozen=True)
class DataFacts:
    """A data set as it was read: ``samples`` counts by what they are; ``skipped`` names the first records that could
    not be used, ``unusable`` counts all; ``fingerprint`` is a SHA-256 over what was read.
    """

    name: str
    kind: str
    samples: dict[str, int]
    fingerprint: str
    unusable: int = 0
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """What a variant achieves on a task, and what it loses against the reference, sample by sample.

    Both in percent (points), by metric, with the 95% interval of a bootstrap over the queries.
    """

    provenance: Provenance
    metrics: dict[str, Interval]
    drops: dict[str, Interval]


@dataclass(frozen=True)
class Scoring:
    """Variants scored on one data set.

    ``reference`` names what the drops are against, ``answers`` is the path within the bundle of its answers, so that
    they can be compared with where PyTorch is not. A variant is scored with the reference's answers for the other
    components; ``together`` scores the chosen ones as they serve.
    """

    task: str
    primary: str
    data: DataFacts
    reference: str
    metrics: dict[str, Interval]
    answers: str
    scores: dict[str, Score] = field(default_factory=dict)
    together: Score | None = None


Objective = Literal["latency", "throughput", "size"]

ROUNDING = 1e-9
"""Points by which a drop may exceed its limit: shares of counts are not exact in binary."""


@dataclass(frozen=True)
class Gate:
    """What a variant may lose against the reference, in points by metric, and by what the best of those that hold it
    is chosen.
    """

    within: dict[str, float] = field(default_factory=dict)
    objective: Objective = "latency"

    def breach(self, score: Score) -> str:
        """Which limit a score exceeds, in words; empty where it holds all."""
        for metric, limit in self.within.items():
            drop = score.drops.get(metric)
            if drop is None:
                return f"{metric} was not scored"
            if drop.value > limit + ROUNDING:
                return f"{metric} drops by {drop}, at most {limit:g} may"
        return ""

    def __str__(self) -> str:
        return ", ".join(f"{metric} within {limit:g}" for metric, limit in self.within.items())


@dataclass(frozen=True)
class Choice:
    """Which variant of a component serves, and why each of the others does not (variant name -> reason).

    ``held`` is False where no variant that was asked for holds the gate, and FP32 serves in their place.
    ``cuda_graph``: it serves by replaying a CUDA graph, as it was measured.
    """

    variant: str
    reason: str
    others: dict[str, str] = field(default_factory=dict)
    held: bool = True
    cuda_graph: bool = False
