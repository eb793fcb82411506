"""What a verification found: how a variant's answers differ from PyTorch's, where that holds, and what failed."""

from __future__ import annotations

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
    elements: int = 0
    differing: int = 0
    near_ties: int = 0

    @property
    def max_scaled(self) -> float:
        """The largest absolute difference as a share of the output's scale; of whole numbers the share that differs."""
        if self.elements:
            return self.differing / self.elements
        return self.max_abs / self.scale if self.scale else self.max_abs


@dataclass(frozen=True)
class Tolerance:
    """What a variant of a precision may differ: ``scaled`` bounds the largest difference as a share of the output's
    largest magnitude, ``cosine`` is the smallest that passes. ``differing`` is the share of whole numbers and truth
    values that may differ, at no near tie.
    """

    scaled: float
    cosine: float
    differing: float = 0.0


@dataclass(frozen=True)
class Rows:
    """How many rows of a golden were run: the first ``taken`` of ``there``, or all of them repeated to ``taken``."""

    taken: int
    there: int


Company = Literal["alone", "turned", "fewer"]
"""What a batch was compared with: PyTorch's answers (alone), or itself, turned round by one row or one row fewer."""


@dataclass(frozen=True)
class GoldenRun:
    """What was run: the golden ``min``, ``opt``, ``max`` or ``samples``, and how.

    ``rows`` is None where all rows of the golden were run as they are. ``sizes`` are the sizes of the axes where the
    inputs were cut to them. ``company`` says how the rows of the batch were arranged. ``replayed``: the answer was
    replayed from a CUDA graph. ``true_half``: every result was rounded to FP16, as a GPU does.
    """

    golden: str
    rows: Rows | None = field(default=None, kw_only=True)
    sizes: dict[str, int] = field(default_factory=dict, kw_only=True)
    company: Company = field(default="alone", kw_only=True)
    replayed: bool = field(default=False, kw_only=True)
    true_half: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class GoldenCheck(GoldenRun):
    """One output of one run compared, or one group of its columns that has a unit of its own.

    ``columns`` are that group's along the dimension ``axis``, as (first, behind the last); empty for the whole output.
    ``difference`` then has the scale of the group over all goldens, and ``whole_scale`` is that of the output.
    """

    output: str
    difference: Difference
    columns: tuple[tuple[int, int], ...] = ()
    axis: int = -1
    whole_scale: float = 0.0

    def failure(self, kind: FailureKind, difference: float | None = None, limit: float | None = None) -> Failure:
        """What is wrong with this output."""
        return Failure(
            kind=kind,
            golden=self.golden,
            output=self.output,
            rows=self.rows,
            sizes=self.sizes,
            company=self.company,
            replayed=self.replayed,
            true_half=self.true_half,
            difference=difference,
            limit=limit,
            columns=self.columns,
            axis=self.axis,
            nan=self.difference.nan if kind == "nonfinite" else 0,
            inf=self.difference.inf if kind == "nonfinite" else 0,
        )


FailureKind = Literal["difference", "cosine", "differing", "nonfinite", "unproven", "error"]
"""What was wrong: an output off by too large a share of its scale, too small a cosine, too many whole numbers that
differ, NaN or infinite values; no golden that the variant runs; or an error of the runtime."""


@dataclass(frozen=True, kw_only=True)
class Failure(GoldenRun):
    """One reason why a variant did not pass.

    ``difference`` is the share of the output's scale, or the cosine, or the share of elements that differ, and
    ``limit`` what it may be. ``columns`` along ``axis`` are those that were compared by themselves. ``nan`` and ``inf``
    count such values of a nonfinite output. An error has no golden: ``detail`` is what the runtime said. ``rests_on``
    names the FP32 of the same graph and runtime, such as ``openvino/fp32``, where it is that which is wrong: then no
    lower precision is believed.
    """

    kind: FailureKind
    golden: str = ""
    output: str = ""
    difference: float | None = None
    limit: float | None = None
    columns: tuple[tuple[int, int], ...] = ()
    axis: int = -1
    nan: int = 0
    inf: int = 0
    detail: str = ""
    rests_on: str = ""


Stress = Literal["large", "nan", "infinite", "zero", "masked"]
"""A kind of inputs beyond the goldens: all floats 100 times larger; one element of each NaN, or infinite; all floats
zero; a mask without a token in its first row."""


@dataclass(frozen=True)
class StressNote:
    """An output that differs from PyTorch's at inputs beyond the goldens.

    ``nan`` and ``inf`` count such values, ``nan_expected`` and ``inf_expected`` those in PyTorch's answer, and
    ``nonfinite`` the places where the two disagree. ``difference`` is the share of the scale by which the other values
    are off; of ``whole`` numbers the share that differs. ``node`` with its ``operator`` and
    PyTorch ``module`` is the first in the graph that makes such values or loses them, where it was found. ``detail`` is
    what the runtime said that could not run it.
    """

    kind: Stress
    output: str = ""
    nan: int = 0
    inf: int = 0
    nan_expected: int = 0
    inf_expected: int = 0
    nonfinite: int = 0
    difference: float = 0.0
    whole: bool = False
    node: str = ""
    operator: str = ""
    module: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """Whether a variant agrees with PyTorch at every golden and treats each row of a batch on its own.

    ``invariance`` compares each row of a batch with the same row run in other company; it is empty where the
    component has no batch axis. ``failures`` is what was out of tolerance, or kept the variant from running. ``stress``
    notes how answers differ at inputs beyond the goldens; most models never meet these.
    """

    provenance: Provenance
    tolerance: Tolerance
    checks: tuple[GoldenCheck, ...]
    invariance: tuple[GoldenCheck, ...]
    failures: tuple[Failure, ...] = ()
    stress: tuple[StressNote, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def replays(self) -> bool:
        """Whether what it answers when it replays CUDA graphs was compared too; False where it cannot replay them."""
        return any(check.replayed for check in self.checks)

    @property
    def worst(self) -> GoldenCheck:
        """The golden and output with the largest scaled difference."""
        return max(self.checks, key=lambda c: c.difference.max_scaled)
