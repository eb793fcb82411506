"""What conversion did to a component's graph: on which samples, which nodes stayed FP32, and what was mended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RangeMethod = Literal["extremes", "minmax", "percentile", "entropy", "nncf"]
"""How ranges were found on samples: the extremes that FP16 must hold, a calibrator of ours, or NNCF's own."""


@dataclass(frozen=True)
class Calibration:
    """The samples that ranges come from: how many, of which data set, and by which method.

    ``source`` is the data set's name, None for the inputs of the goldens. ``percentile`` is the share of values in
    percent that the method of that name covers, None for the others.
    """

    samples: int
    source: str | None
    method: RangeMethod
    percentile: float | None = None


@dataclass(frozen=True)
class KeptNode:
    """A node that stayed in FP32, the PyTorch module it came from, and why."""

    node: str
    operator: str
    module: str
    reason: str


@dataclass(frozen=True)
class Damage:
    """What the damage of a graph that was tried is made of: what it loses of ``metric``, in ``unit``, plus 1 - the mean
    cosine to the reference, as ``runtime`` computes it.

    ``metric`` is empty where only the cosine counts. ``true_half``: it was computed in true half precision, since the
    runtime only emulates FP16.
    """

    metric: str
    unit: str
    runtime: str
    true_half: bool


@dataclass(frozen=True)
class Repair:
    """Nodes that were moved back to FP32 because the task or the numerics suffered from them.

    ``before`` and ``after`` are the ``damage`` without and with the repair; ``share`` is what remained converted;
    ``evaluations`` counts the graphs that were tried to find the nodes.
    """

    nodes: tuple[str, ...]
    damage: Damage
    before: float
    after: float
    share: float
    evaluations: int
    held: bool


@dataclass(frozen=True)
class Conversion:
    """What a pass did to a component's graph: ``converted`` of the ``candidates`` (nodes that the format can hold).

    ``calibration`` says what the ranges come from; None where none are needed.
    """

    converted: int
    candidates: int
    kept: tuple[KeptNode, ...] = ()
    calibration: Calibration | None = None
    repair: Repair | None = None

    @property
    def share(self) -> float:
        return self.converted / self.candidates if self.candidates else 0.0
