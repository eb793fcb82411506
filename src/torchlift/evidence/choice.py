"""Which variant serves, and why each of the others does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torchlift.evidence.accuracy import Breach, Gate
from torchlift.evidence.proof import Failure

VerdictKind = Literal[
    "costlier",
    "as good",
    "reserve",
    "breach",
    "not scored",
    "disagrees",
    "not built",
    "not measured",
    "not verified",
    "other",
]
"""Why a variant does not serve: it costs more by the objective; it is as good as the chosen one and not more precise;
it is only kept for where no other holds the gate; it exceeds the gate; it is not known to hold the gate, since it was
not scored on this machine; it disagrees with PyTorch; it was not built, not measured, or not verified on this machine.
``other`` is a reason that an earlier release gave in words."""


@dataclass(frozen=True)
class Verdict:
    """Why a variant does not serve, with what belongs to the ``kind``.

    ``ratio`` is what it costs by the objective (time, time a sample or size), divided by what the chosen one costs.
    ``detail`` is an error's own text.
    """

    kind: VerdictKind
    ratio: float | None = None
    breach: Breach | None = None
    failure: Failure | None = None
    detail: str = ""

    @property
    def refuses(self) -> bool:
        """Whether the variant breaks the gate, may break it, or disagrees with PyTorch."""
        return self.kind in ("breach", "not scored", "disagrees")


@dataclass(frozen=True)
class Choice:
    """Which variant of a component serves, under which ``gate``, and why each of the others does not (variant name ->
    verdict).

    ``batch`` is the batch whose latency decided, None where another objective did. ``held`` is False where no variant
    that was asked for holds the gate, and FP32 serves in their place. ``cuda_graph``: it serves by replaying a CUDA
    graph, as it was measured.
    """

    variant: str
    gate: Gate = field(default_factory=Gate)
    batch: int | None = None
    others: dict[str, Verdict] = field(default_factory=dict)
    held: bool = True
    cuda_graph: bool = False
