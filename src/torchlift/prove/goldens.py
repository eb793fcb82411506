"""Golden samples: seeded inputs at the corners of the axes' ranges, with the answers of PyTorch in FP32 to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from torchlift.bundle import Bundle
from torchlift.errors import BundleError, NoSignalError, SignatureError, some
from torchlift.manifest import Component, Graph
from torchlift.signature import BATCH, CORNERS, Signature

GOLDENS = "goldens.safetensors"

_SILENCE = 1e-6
"""The largest magnitude below which an output is taken for zero."""

_REMEDY = "Copy the bundle again from where it was made, or export the model again."


@dataclass(frozen=True)
class Golden:
    """``name`` is the corner (min, opt, max), or says what is in it; arrays have the signature's dtypes and shapes."""

    name: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def save_goldens(file: Path, goldens: Iterable[Golden]) -> None:
    """Write safetensors with the keys ``<golden>/inputs/<name>`` and ``<golden>/outputs/<name>``.

    Raises NoSignalError for answers that prove nothing: they would not be read again.
    """
    from safetensors.numpy import save_file

    goldens = tuple(goldens)
    require_signal(goldens)
    tensors = {
        f"{golden.name}/{role}/{name}": np.require(array, requirements="C")
        for golden in goldens
        for role, arrays in (("inputs", golden.inputs), ("outputs", golden.outputs))
        for name, array in arrays.items()
    }
    save_file(tensors, file)
    file.chmod(0o644)


def goldens_of(graph: Graph | None) -> str:
    """The path of the samples that a graph was calibrated on, with PyTorch's answers; empty without."""
    return next((path for path in (graph.files if graph else ()) if PurePosixPath(path).name == GOLDENS), "")


def load_goldens(bundle: Bundle, component: Component) -> dict[str, Golden]:
    """The component's goldens by name, in the order min, opt, max, each of the axes' sizes at that corner.

    Raises BundleError where the file does not hold just these, as the signature has them: every tensor, its dtype,
    rank and sizes, integers within their bounds. Raises NoSignalError where answers prove nothing. Both name the file,
    the golden and the tensor.
    """
    file, signature = bundle.path / component.goldens, component.signature
    found = _read(bundle, component.goldens, signature)
    if found.keys() != {*CORNERS}:
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
    return {corner: found[corner] for corner in CORNERS}


def load_samples(bundle: Bundle, component: Component, graph: Graph | None) -> dict[str, Golden]:
    """The samples that a graph was calibrated on, by name, of any sizes that the axes admit; none where it has none.

    Raises BundleError and NoSignalError as :func:`load_goldens` does.
    """
    path = goldens_of(graph)
    if not path:
        return {}
    file = bundle.path / path
    found = _read(bundle, path, component.signature)
    if not found or found.keys() & {*CORNERS}:
        raise BundleError(
            f"{file} holds {some(sorted(found)) or 'nothing'}, and no samples that a graph was calibrated on",
            remedy=_REMEDY,
        )
    return found


def _read(bundle: Bundle, path: str, signature: Signature) -> dict[str, Golden]:
    """The inverse of :func:`save_goldens`, by name."""
    from safetensors.numpy import load

    file, data = bundle.path / path, bundle.read(path)
    found: dict[str, Golden] = {}
    try:
        tensors = load(data)
    except Exception as error:  # of other types for other damage
        raise BundleError(f"{file} cannot be read as goldens: {error}", remedy=_REMEDY) from error
    for key, array in tensors.items():
        name, role, tensor = [*key.split("/", 2), "", ""][:3]
        if role not in ("inputs", "outputs"):
            raise BundleError(f"{file} holds {key!r}, which is no tensor of a golden", remedy=_REMEDY)
        getattr(found.setdefault(name, Golden(name, {}, {})), role)[tensor] = array
    for golden in found.values():
        _check(file, signature, golden)
    try:
        require_signal(found.values())
    except NoSignalError as error:
        raise NoSignalError(f"{file}: {error.message}", remedy=_REMEDY) from error
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
    """Raise NoSignalError where PyTorch's answers are all near zero, NaN or infinite, or where there are none: any
    comparison would pass.
    """
    for golden in goldens:
        if not any(output.size for output in golden.outputs.values()):
            raise NoSignalError(
                f"PyTorch gives no number for the golden {golden.name}",
                remedy="Give samples that the network answers: nothing can be proven without an answer.",
            )
        for name, output in golden.outputs.items():
            if output.size == 0 or output.dtype.kind not in "fc":
                continue
            bad = int(np.count_nonzero(~np.isfinite(output)))
            if bad:
                raise NoSignalError(
                    f"PyTorch's own output {name} holds {bad} NaN or infinite values for the golden {golden.name}",
                    remedy="Check the weights and the sample inputs: nothing can be proven against such answers.",
                )
            largest = float(np.abs(output).max())
            if largest < _SILENCE:
                raise NoSignalError(
                    f"PyTorch's output {name} is nearly zero (at most {largest:.1e}) for the golden {golden.name}",
                    remedy="Load trained weights, or give sample inputs that the model answers to: any comparison "
                    "with zeros would pass.",
                )


def cut(signature: Signature, inputs: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The leading part of ``inputs`` that has the given axis sizes; ``inputs`` must be at least that large."""
    return {
        spec.name: np.require(
            inputs[spec.name][tuple(slice(sizes[d]) if isinstance(d, str) else slice(None) for d in spec.shape)],
            requirements="C",
        )
        for spec in signature.inputs
    }


def with_rows(signature: Signature, golden: Golden, count: int, order: np.ndarray | None = None) -> Golden:
    """The golden with ``count`` rows along the batch axis, which it must have: the first of them, in another ``order``
    where one is given, or all again and again.

    Rows answer for themselves, so that the answers are cut or repeated likewise.
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

    said = f"{count} of {there} rows" if count < there else f"{there} rows repeated to {count}"
    return Golden(f"{golden.name}, {said}", taken(golden.inputs), taken(golden.outputs))


def telling_order(signature: Signature, golden: Golden) -> np.ndarray:
    """The rows of a golden, int64 [rows], from those on in which all outputs are large: an error is judged as a share
    of the largest magnitude, so that a few rows of small answers would be judged more strictly than all together.
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
    """Inputs of the same shapes and dtypes that are zero, or of the least value where their bounds leave out zero."""
    nearest = {
        s.name: 0 if s.bounds is None or s.bounds[0] <= 0 < s.bounds[1] else (s.whole_bounds or s.bounds)[0]
        for s in signature.inputs
    }
    return {name: np.full_like(array, nearest[name]) for name, array in inputs.items()}
