"""Goldens: seeded inputs at the corners of the axes' ranges, with PyTorch's FP32 answers to them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from torchlift.bundle import Bundle
from torchlift.errors import BundleError, NoSignalError, SignatureError, some
from torchlift.evidence import GoldenRun, Rows
from torchlift.manifest import Component, Graph
from torchlift.signature import BATCH, CORNERS, Signature

GOLDENS = "goldens.safetensors"

BETWEEN = ("low", "high")
"""The goldens at seeded sizes between least and optimum, and between optimum and greatest. Bundles whose axes do not
vary have none, and neither have those of earlier releases.
"""

SILENCE = 1e-6
"""An output whose largest magnitude is below this counts as zero."""

_REMEDY = "Copy the bundle again from where it was made, or export the model again."


@dataclass(frozen=True)
class Golden:
    """Inputs and the answers to them, with the signature's dtypes and shapes.

    ``name`` is the corner (min, opt, max), one of those between (low, high), or ``samples``. ``rows`` says how many
    rows of that golden there are here, None where all are. ``sizes`` are the axes' sizes where the golden was cut to
    them, and answered anew.
    """

    name: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    rows: Rows | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def run(self) -> GoldenRun:
        """What is run where this golden is."""
        return GoldenRun(self.name, rows=self.rows, sizes=dict(self.sizes))

    @property
    def key(self) -> Hashable:
        """Tells goldens apart that were cut from the same."""
        return self.name, self.rows, *self.sizes.items()


def save_goldens(file: Path, goldens: Iterable[Golden]) -> None:
    """Write safetensors with the keys ``<golden>/inputs/<name>`` and ``<golden>/outputs/<name>``.

    Raises NoSignalError for answers that prove nothing, since these are refused when they are read.
    """
    goldens = tuple(goldens)
    require_signal(goldens)
    write_goldens(file, goldens)


def write_goldens(file: Path, goldens: Iterable[Golden]) -> None:
    """The same, for answers that need prove nothing."""
    from safetensors.numpy import save_file

    tensors = {
        f"{golden.name}/{role}/{name}": np.require(array, requirements="C")
        for golden in goldens
        for role, arrays in (("inputs", golden.inputs), ("outputs", golden.outputs))
        for name, array in arrays.items()
    }
    save_file(tensors, file)
    file.chmod(0o644)


def goldens_of(graph: Graph | None) -> str:
    """The path of the samples that a graph was calibrated on, with the answers to them; "" where there are none."""
    return next((path for path in (graph.files if graph else ()) if PurePosixPath(path).name == GOLDENS), "")


def load_goldens(bundle: Bundle, component: Component) -> dict[str, Golden]:
    """The component's goldens by name: min, opt and max, with the axes' sizes at that corner, then those between.

    Raises BundleError where the file holds anything else, or a tensor does not fit the signature: its dtype, rank,
    sizes, or the bounds of its integers. Raises NoSignalError where answers prove nothing. Both name the file, the
    golden and the tensor.
    """
    file, signature = bundle.path / component.goldens, component.signature
    found = _read(bundle, component.goldens, signature)
    if not {*CORNERS} <= found.keys() <= {*CORNERS, *BETWEEN}:
        raise BundleError(
            f"{file} holds the goldens {some(sorted(found)) or 'of nothing'}, and not {', '.join(CORNERS)}",
            remedy=_REMEDY,
        )
    for corner in CORNERS:
        expected = signature.sizes(corner)
        for axis, size in signature.check(found[corner].inputs).items():
            if size != expected[axis]:
                raise BundleError(
                    f"{file}: the golden {corner} has {axis} {size}, where the axis' {corner} is {expected[axis]}",
                    remedy=_REMEDY,
                )
    return {name: found[name] for name in (*CORNERS, *BETWEEN) if name in found}


def load_samples(bundle: Bundle, component: Component, graph: Graph | None) -> dict[str, Golden]:
    """The samples that a graph was calibrated on, by name; empty where there are none. They have any size of the axes.

    Raises BundleError and NoSignalError as :func:`load_goldens` does.
    """
    path = goldens_of(graph)
    if not path:
        return {}
    file = bundle.path / path
    found = _read(bundle, path, component.signature)
    if not found or found.keys() & {*CORNERS, *BETWEEN}:
        raise BundleError(
            f"{file} holds {some(sorted(found)) or 'nothing'}, and no samples that a graph was calibrated on",
            remedy=_REMEDY,
        )
    return found


def _read(bundle: Bundle, path: str, signature: Signature) -> dict[str, Golden]:
    """Read and check what :func:`save_goldens` wrote, by name."""
    found = load_samples_of(bundle, path, signature)
    try:
        require_signal(found.values())
    except NoSignalError as error:
        raise NoSignalError(f"{bundle.path / path}: {error.message}", remedy=_REMEDY) from error
    return found


def load_samples_of(bundle: Bundle, path: str, signature: Signature) -> dict[str, Golden]:
    """Read what :func:`write_goldens` wrote, by name, and check that it fits the signature. Raises BundleError."""
    from safetensors.numpy import load

    file, data = bundle.path / path, bundle.read(path)
    found: dict[str, Golden] = {}
    try:
        tensors = load(data)
    except Exception as error:  # safetensors raises other types for other kinds of damage
        raise BundleError(f"{file} cannot be read as goldens: {error}", remedy=_REMEDY) from error
    for key, array in tensors.items():
        name, role, tensor = [*key.split("/", 2), "", ""][:3]
        if role not in ("inputs", "outputs"):
            raise BundleError(f"{file} holds {key!r}, which is no tensor of a golden", remedy=_REMEDY)
        getattr(found.setdefault(name, Golden(name, {}, {})), role)[tensor] = array
    for golden in found.values():
        _check(file, signature, golden)
    return found


def _check(file: Path, signature: Signature, golden: Golden) -> None:
    """Raise BundleError where a golden does not fit the signature."""
    where = f"{file}: the golden {golden.name}"
    try:
        sizes = signature.check(golden.inputs)
    except SignatureError as error:
        raise BundleError(f"{where}: {error.message}", remedy=_REMEDY) from error
    if golden.outputs.keys() != {*signature.output_names}:
        raise BundleError(
            f"{where} has the outputs {some(sorted(golden.outputs)) or 'of nothing'}, the signature "
            f"{some(signature.output_names)}",
            remedy=_REMEDY,
        )
    for spec in signature.outputs:
        answer = golden.outputs[spec.name]
        if not spec.fits(answer, sizes):
            raise BundleError(
                f"{where}: output {spec.name} is {answer.dtype}{list(answer.shape)}, and not {spec}", remedy=_REMEDY
            )


def require_signal(goldens: Iterable[Golden]) -> None:
    """Raise NoSignalError where PyTorch's answers prove nothing: they are all near zero or infinite, missing, or NaN.

    Infinite values among others are answers, such as what a mask leaves of scores: a variant must have them too. An
    output that is zero beside another that is not is compared like that one: any answer but zero is wrong.
    """
    goldens = tuple(goldens)
    if goldens and not any(output.size for golden in goldens for output in golden.outputs.values()):
        raise NoSignalError(
            f"PyTorch gives no number for the goldens {', '.join(golden.name for golden in goldens)}",
            remedy="Give samples that the network answers: nothing can be proven without an answer.",
        )
    for golden in goldens:
        reals = {n: o for n, o in golden.outputs.items() if o.size and o.dtype.kind in "fc"}
        for name, output in reals.items():
            bad = int(np.count_nonzero(np.isnan(output)))
            if bad:
                raise NoSignalError(
                    f"PyTorch's own output {name} holds {bad} NaN for the golden {golden.name}",
                    remedy="Check the weights and the sample inputs: nothing can be proven against such answers.",
                )
        finite = [np.abs(output[np.isfinite(output)]) for output in reals.values()]
        largest = max((float(part.max(initial=0.0)) for part in finite), default=1.0)
        if largest < SILENCE:
            raise NoSignalError(
                f"PyTorch's output {', '.join(reals)} is nearly zero (at most {largest:.1e}) for the golden "
                f"{golden.name}",
                remedy="Load trained weights, or give sample inputs that the model answers to: any comparison "
                "with zeros would pass.",
            )


def cut(signature: Signature, inputs: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The leading part of ``inputs`` with the given sizes of the axes. ``inputs`` must be at least that large."""
    return {
        spec.name: np.require(
            inputs[spec.name][tuple(slice(sizes[d]) if isinstance(d, str) else slice(None) for d in spec.shape)],
            requirements="C",
        )
        for spec in signature.inputs
    }


def with_rows(signature: Signature, golden: Golden, count: int, order: np.ndarray | None = None) -> Golden:
    """A golden with ``count`` rows along the batch axis, which it must have.

    Fewer rows are the first ones, in ``order`` if given. More rows repeat them. The answers are cut or repeated in the
    same way, since a row's answer does not depend on other rows.
    """
    there = signature.check(golden.inputs)[BATCH]
    if count == there:
        return golden
    rows = (np.arange(there) if order is None else order)[np.arange(count) % there]
    axes = {spec.name: spec.batch_position for spec in (*signature.inputs, *signature.outputs)}

    def taken(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: array if (axis := axes[name]) is None else np.ascontiguousarray(array.take(rows, axis))
            for name, array in arrays.items()
        }

    return replace(
        golden, inputs=taken(golden.inputs), outputs=taken(golden.outputs), rows=Rows(taken=count, there=there)
    )


def telling_order(signature: Signature, golden: Golden) -> np.ndarray:
    """The positions of a golden's rows, int64 [rows], with the rows first in which all outputs are large.

    An error is judged relative to the largest magnitude of all rows. A cut that has only rows with small answers would
    be judged more strictly than all rows together.
    """
    weakest = np.ones(signature.check(golden.inputs)[BATCH])
    for spec in signature.outputs:
        if spec.batch_position is not None:
            rows = np.moveaxis(golden.outputs[spec.name], spec.batch_position, 0).astype(np.float64)
            sizes = np.abs(np.nan_to_num(rows)).reshape(len(rows), -1).max(axis=1, initial=0.0)
            if sizes.any():
                weakest = np.minimum(weakest, sizes / sizes.max())
    return np.argsort(-weakest, kind="stable")


def blank(signature: Signature, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs of the same shapes and dtypes that are all zero, or the lowest value where bounds exclude zero."""
    nearest = {
        s.name: 0 if s.bounds is None or s.bounds[0] <= 0 < s.bounds[1] else (s.whole_bounds or s.bounds)[0]
        for s in signature.inputs
    }
    return {name: np.full_like(array, nearest[name]) for name, array in inputs.items()}
