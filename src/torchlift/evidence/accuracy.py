"""What a task found: metrics with their intervals, what variants lose, and what they may lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torchlift.errors import InputError
from torchlift.evidence.proof import Provenance

CONFIDENCE = 95.0
"""Percent; of an interval where nothing else was asked for."""

ROUNDING = 1e-9
"""By how much a drop may exceed its limit: shares of counts are not exact in binary."""


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval; ``confidence`` is in percent."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


Direction = Literal["higher", "lower"]
"""Which values of a metric are the better ones."""

POINTS = "points"
"""The unit of a metric that is a share: 0.25 is shown as 25 percent, and a drop of 0.01 is one point."""


@dataclass(frozen=True)
class Measure:
    """What a metric's numbers are: in ``unit``, which is ``points`` for shares in percent, else for example dB; and
    which of them are ``better``.
    """

    unit: str = POINTS
    better: Direction = "higher"


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
    """What a variant achieves on a task, and how much worse than the reference that is, sample by sample.

    Both by metric, in the metric's unit, with the interval of a bootstrap over the samples. A drop is positive where
    the variant is worse, whichever direction of the metric is better. ``by_class`` has the metrics of each class alone,
    of a task that tells them.
    """

    provenance: Provenance
    metrics: dict[str, Interval]
    drops: dict[str, Interval]
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)

    def at(self, confidence: float) -> bool:
        """Whether all intervals have this confidence, in percent."""
        return all(x.confidence == confidence for x in (*self.metrics.values(), *self.drops.values()))


Reference = Literal["pytorch", "source"]
"""What drops are against: PyTorch in FP32, or the component's exported FP32 graph where PyTorch is not at hand."""


@dataclass(frozen=True)
class Scoring:
    """Variants scored on one data set.

    ``metrics`` is what the reference achieves, ``measures`` says what those numbers are; ``answers`` is the path within
    the bundle of the reference's answers, so that they can be compared with where PyTorch is not. A variant is scored
    with the reference's answers for the other components; ``together`` scores the chosen ones as they serve.
    ``by_class`` is what the reference achieves in each class alone, of a task that tells it.
    """

    task: str
    primary: str
    data: DataFacts
    reference: Reference
    metrics: dict[str, Interval]
    answers: str
    scores: dict[str, Score] = field(default_factory=dict)
    together: Score | None = None
    measures: dict[str, Measure] = field(default_factory=dict)
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)

    def measure(self, metric: str) -> Measure:
        """What the numbers of a metric are; points where nothing else is known."""
        return self.measures.get(metric, Measure())


@dataclass(frozen=True)
class Breach:
    """A limit that was exceeded: ``metric`` may get worse by ``limit``, in the unit of ``measure``.

    ``drop`` is what was found, None where the metric was not scored or no variant was scored alone. ``bound`` is the
    number that exceeds the limit: the drop's estimate, or with a ``confidence`` its upper bound. ``components``:
    ``one`` for a variant by itself, ``all`` for the choices of all components as they serve, ``sum`` for these where
    only the sum of what each loses is known.
    """

    metric: str
    limit: float
    drop: Interval | None = None
    bound: float | None = None
    confidence: float | None = None
    measure: Measure = field(default_factory=Measure)
    components: Literal["one", "all", "sum"] = "one"


Objective = Literal["latency", "throughput", "size"]


@dataclass(frozen=True)
class Gate:
    """What a variant may lose against the reference, by metric in its unit, and by what the best of those that hold it
    is chosen.

    Without ``confidence`` the estimate of a drop decides. With it, in percent, a drop must be within its limit at that
    confidence: the upper bound of its interval decides. Raises InputError for a confidence that is none.
    """

    within: dict[str, float] = field(default_factory=dict)
    objective: Objective = "latency"
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None and not 50 <= self.confidence < 100:
            raise InputError(
                f"a confidence of {self.confidence:g}% is none that a gate can ask for",
                remedy="Give `confidence=` at least 50 and less than 100, for example 95.",
            )

    @property
    def interval(self) -> float:
        """The confidence, in percent, of the intervals that scores must have."""
        return CONFIDENCE if self.confidence is None else self.confidence

    def bound(self, drop: Interval) -> float:
        """The number of a drop that its limit is compared with."""
        return drop.value if self.confidence is None else drop.high

    def breach(self, score: Score, measures: Mapping[str, Measure]) -> Breach | None:
        """The first limit that a score exceeds; None where it holds all. ``measures`` are those of the scoring."""
        for metric, limit in self.within.items():
            drop, measure = score.drops.get(metric), measures.get(metric, Measure())
            bound = None if drop is None else self.bound(drop)
            if bound is None or bound > limit + ROUNDING:
                return Breach(metric, limit, drop, bound, self.confidence, measure)
        return None

    def __str__(self) -> str:
        at = "" if self.confidence is None else f" at {self.confidence:g}% confidence"
        return ", ".join(f"{metric} within {limit:g}" for metric, limit in self.within.items()) + at * bool(self.within)
