"""Compares a variant's answers with PyTorch's at the goldens, and checks that rows of a batch are independent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np

from torchlift.errors import VerificationError
from torchlift.evidence import Company, Difference, Failure, GoldenCheck, GoldenRun, Tolerance
from torchlift.manifest import Precision
from torchlift.messages import run_text
from torchlift.prove.columns import Columns
from torchlift.prove.goldens import Golden
from torchlift.signature import BATCH, Signature, TensorSpec

TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(scaled=1e-4, cosine=0.99999),
    "fp16": Tolerance(scaled=2e-2, cosine=0.999, differing=0.02),
    "bf16": Tolerance(scaled=6e-2, cosine=0.997, differing=0.02),
    "int8": Tolerance(scaled=2e-1, cosine=0.98, differing=0.1),
}
"""Precision -> how much answers may differ by default. FP32 kernels add in different orders, which changes answers by
about 1e-6 of the scale. TF32 or BF16 in the place of FP32 changes them by 1e-3 or more, and fails. The tolerances
follow the significands of the formats (23, 10 and 7 bits), with room for a few dozen layers.
"""

_FLIPS = 2.0
"""Steps of a network's own quantisation by which its answers may differ. A step is a share of the largest number that
the integers reach, and a tensor may fill only half of that.
"""


def with_step(tolerance: Tolerance, step: float) -> Tolerance:
    """The tolerance of a network that rounds inside, to a ``step`` that is a share of what its integers reach.

    Where a value lies near the half, runtimes round it differently, and an answer moves by a step. No smaller tolerance
    can be asked for.
    """
    reach = _FLIPS * step
    return replace(
        tolerance, scaled=max(tolerance.scaled, reach), cosine=min(tolerance.cosine, 1 - reach * reach if step else 1.0)
    )


UNBOUNDED = Tolerance(scaled=np.inf, cosine=-1.0, differing=1.0)
"""Accepts all finite answers."""

_RELATIVE_FLOOR = 1e-3
"""Elements smaller than this share of the scale are left out of relative differences. Rows shorter than this share of
the longest row are left out of cosines.
"""


_ROUNDING = 1e-6
"""The share of a whole output's scale by which FP32 kernels that add in different orders differ. A group of small
columns may be off by so much besides: it may have been computed together with the large ones.
"""

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""Computes outputs from inputs, both by name."""

NearTies = Callable[[str, Mapping[str, np.ndarray], np.ndarray, np.ndarray], int]
"""How many elements of an output differ at a near tie: of its name, the inputs, an answer and the reference."""


@dataclass(frozen=True)
class Judge:
    """How the outputs of one component are compared.

    ``columns`` are the groups of columns that an output is compared by besides, each on its own scale. ``near_ties``
    tells where either of two whole numbers is right. ``tolerance`` is what the answers are held to. ``masks`` names by
    output the input that is 0 where answers do not matter.
    """

    columns: Mapping[str, tuple[Columns, ...]] = field(default_factory=dict)
    near_ties: NearTies | None = None
    tolerance: Tolerance = TOLERANCES["fp32"]
    masks: Mapping[str, str] = field(default_factory=dict)

    def checks(
        self, run: GoldenRun, name: str, inputs: Mapping[str, np.ndarray], answer: np.ndarray, expected: np.ndarray
    ) -> Iterator[GoldenCheck]:
        """Compare what ``run`` gave of one output, whole and by groups of columns, where its mask says so."""
        if name in self.masks:
            answer, expected = (_masked(array, inputs[self.masks[name]]) for array in (answer, expected))
        whole = compare(answer, expected)
        if whole.differing and self.near_ties is not None:
            near = self.near_ties(name, inputs, answer, expected)
            whole = replace(whole, differing=whole.differing - near, near_ties=near)
        how = {f.name: getattr(run, f.name) for f in fields(GoldenRun)}
        yield GoldenCheck(output=name, difference=whole, **how)
        groups = self.columns.get(name, ())
        largest = max((group.scale for group in groups), default=0.0)
        for group in groups:
            found = compare(group.of(answer), group.of(expected))
            found = replace(found, scale=max(found.scale, group.scale))
            check = GoldenCheck(output=name, difference=found, **how)
            yield replace(check, columns=group.ranges, axis=group.axis, whole_scale=largest)


def _masked(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The array with 0 wherever the mask, which lies along its first dimensions, is 0."""
    wide = mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
    return np.where(wide != 0, array, np.zeros_like(array))


PLAIN = Judge()
"""Compares each output as a whole."""


def compare(candidate: np.ndarray, reference: np.ndarray) -> Difference:
    """Compare two arrays of one shape and any dtype; see :class:`Difference`.

    Infinities of the same sign agree. A NaN agrees with nothing. Raises ValueError where the shapes differ.
    """
    if candidate.shape != reference.shape:
        raise ValueError(f"shapes differ: {candidate.shape} and {reference.shape}")
    a, b = candidate.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    mismatch = int(np.count_nonzero(~finite & (a != b)))
    scale = float(np.abs(b[finite]).max(initial=0.0))
    absolute = np.abs(a[finite] - b[finite])
    size = np.abs(b[finite])
    telling = size > _RELATIVE_FLOOR * scale
    relative = absolute[telling] / size[telling]
    discrete = reference.dtype.kind in "iub"
    return Difference(
        max_abs=_over(np.max, absolute),
        mean_abs=_over(np.mean, absolute),
        median_abs=_over(np.median, absolute),
        max_rel=_over(np.max, relative),
        mean_rel=_over(np.mean, relative),
        median_rel=_over(np.median, relative),
        cosine=_smallest_cosine(np.where(finite, a, 0), np.where(finite, b, 0)),
        nan=int(np.isnan(a).sum()),
        inf=int(np.isinf(a).sum()),
        nonfinite_mismatch=mismatch,
        scale=scale,
        elements=reference.size if discrete else 0,
        differing=int(np.count_nonzero(candidate != reference)) if discrete else 0,
    )


def _over(statistic: Callable[[np.ndarray], float], values: np.ndarray) -> float:
    return float(statistic(values)) if values.size else 0.0


def _smallest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The smallest cosine between rows of ``a`` and ``b`` [rows, ...]; see :class:`Difference`."""
    rows = len(a) if a.ndim > 1 and a.size > len(a) else 1
    a, b = a.reshape(rows, -1), b.reshape(rows, -1)
    lengths = np.linalg.norm(b, axis=1)
    norms = np.linalg.norm(a, axis=1) * lengths
    cosines = np.divide(np.einsum("ij,ij->i", a, b), norms, out=np.zeros_like(norms), where=norms > 0)
    telling = lengths > _RELATIVE_FLOOR * lengths.max()
    return float(np.clip(cosines[telling], -1, 1).min(initial=1.0))


def distance(answers: np.ndarray, reference: np.ndarray) -> float:
    """1 - the mean cosine of the rows of two arrays [rows, ...]. The cosine of a zero or non-finite row counts as 0."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) if x.ndim else x.reshape(1, 1) for x in (answers, reference))
    with np.errstate(all="ignore"):
        cosines = np.einsum("ij,ij->i", a, b) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return 1.0 - float(np.mean(np.where(np.isfinite(cosines), cosines, 0.0)))


def verify_goldens(run: Run, goldens: Iterable[Golden], judge: Judge = PLAIN) -> tuple[GoldenCheck, ...]:
    """Compare every output at every golden.

    Raises VerificationError where an output has another shape or dtype.
    """
    checks: list[GoldenCheck] = []
    for golden in goldens:
        answers = run(golden.inputs)
        for name, expected in golden.outputs.items():
            answer = answers[name]
            if (answer.shape, answer.dtype) != (expected.shape, expected.dtype):
                raise VerificationError(
                    f"output {name} is {answer.dtype}{list(answer.shape)} for the golden {run_text(golden.run)}, "
                    f"PyTorch's is {expected.dtype}{list(expected.shape)}",
                    remedy="An axis was turned into a constant, or a type changed, on the way: export again.",
                )
            checks += judge.checks(golden.run, name, golden.inputs, answer, expected)
    return tuple(checks)


def verify_invariance(
    run: Run,
    signature: Signature,
    golden: Golden,
    covers: Callable[[Mapping[str, int]], bool] = lambda sizes: True,
    judge: Judge = PLAIN,
) -> tuple[GoldenCheck, ...]:
    """Check that the answer to a row does not depend on the other rows of its batch.

    The golden's batch is run again in two ways: with its rows moved on by one, and without its last row. The second is
    left out where the axis or ``covers`` does not allow that size. Each answer is compared with that of the same row
    before. Returns nothing where there is no batch axis, or only one row.
    """
    axis = signature.batch
    sizes = signature.check(golden.inputs)
    rows = sizes.get(BATCH, 1)
    if axis is None or rows < 2:
        return ()
    together = run(golden.inputs)
    companies: dict[Company, np.ndarray] = {"turned": np.roll(np.arange(rows), 1)}
    if rows - 1 >= axis.min and covers({**sizes, BATCH: rows - 1}):
        companies["fewer"] = np.arange(rows - 1)
    checks: list[GoldenCheck] = []
    for company, order in companies.items():
        inputs = {s.name: _take(s, golden.inputs[s.name], order) for s in signature.inputs}
        answers, what = run(inputs), GoldenRun(golden.name, rows=golden.rows, company=company)
        for spec in signature.outputs:
            if spec.batch_position is not None:
                expected = _take(spec, together[spec.name], order)
                checks += judge.checks(what, spec.name, inputs, answers[spec.name], expected)
    return tuple(checks)


def _take(spec: TensorSpec, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The given rows of a tensor, or the whole tensor where it has no batch axis."""
    if spec.batch_position is None:
        return array
    return np.require(array.take(rows, axis=spec.batch_position), requirements="C")


def failures(checks: Iterable[GoldenCheck], tolerance: Tolerance) -> tuple[Failure, ...]:
    """The checks that are out of tolerance; empty where all pass.

    Whole numbers are counted over all checks of an output: of a single one nothing or all differs. A group of columns
    is held to the difference alone, since few columns have no direction.
    """
    checks, found = tuple(checks), list[Failure]()
    share = {name: _share(check.difference for check in checks if check.output == name) for name in _outputs(checks)}
    for check in checks:
        d = check.difference
        if d.elements:
            if d.differing and share[check.output] > tolerance.differing:
                found.append(check.failure("differing", d.max_scaled, tolerance.differing))
        elif check.columns:
            if d.max_abs > tolerance.scaled * d.scale + _ROUNDING * check.whole_scale:
                found.append(check.failure("difference", d.max_scaled, tolerance.scaled))
        elif d.nonfinite_mismatch:
            found.append(check.failure("nonfinite"))
        elif d.max_scaled > tolerance.scaled:
            found.append(check.failure("difference", d.max_scaled, tolerance.scaled))
        elif d.cosine < tolerance.cosine:
            found.append(check.failure("cosine", d.cosine, tolerance.cosine))
    return tuple(found)


def _outputs(checks: Iterable[GoldenCheck]) -> set[str]:
    return {check.output for check in checks}


def _share(differences: Iterable[Difference]) -> float:
    """The share of whole numbers that differ; 0 where there are none."""
    found = tuple(differences)
    return sum(d.differing for d in found) / max(sum(d.elements for d in found), 1)
