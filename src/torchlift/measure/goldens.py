"""Golden samples: seeded inputs at the corners of the axes' ranges, with the answers of PyTorch in FP32 to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from torchlift.bundle import Bundle
from torchlift.manifest import Component, Graph
from torchlift.signature import BATCH, CORNERS, Signature

GOLDENS = "goldens.safetensors"


@dataclass(frozen=True)
class Golden:
    """``name`` is the corner (min, opt, max), or says what is in it; arrays have the signature's dtypes and shapes."""

    name: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]


def save_goldens(file: Path, goldens: Iterable[Golden]) -> None:
    """Write safetensors with the keys ``<golden>/inputs/<name>`` and ``<golden>/outputs/<name>``."""
    from safetensors.numpy import save_file

    tensors = {
        f"{golden.name}/{role}/{name}": np.require(array, requirements="C")
        for golden in goldens
        for role, arrays in (("inputs", golden.inputs), ("outputs", golden.outputs))
        for name, array in arrays.items()
    }
    save_file(tensors, file)
    file.chmod(0o644)


def load_goldens(bundle: Bundle, component: Component) -> dict[str, Golden]:
    """The component's goldens by name, in the order min, opt, max."""
    found = read_goldens(bundle.file(component.goldens))
    return {corner: found[corner] for corner in CORNERS if corner in found}


def read_goldens(file: Path) -> dict[str, Golden]:
    """The inverse of :func:`save_goldens`, by name."""
    from safetensors.numpy import load_file

    found: dict[str, Golden] = {}
    for key, array in load_file(file).items():
        golden_name, role, name = key.split("/", 2)
        golden = found.setdefault(golden_name, Golden(golden_name, {}, {}))
        getattr(golden, role)[name] = array
    return found


def goldens_of(graph: Graph | None) -> str:
    """The path of the samples that a graph was calibrated on, with PyTorch's answers; empty without."""
    return next((path for path in (graph.files if graph else ()) if PurePosixPath(path).name == GOLDENS), "")


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
        s.name: 0 if s.bounds is None or s.bounds[0] <= 0 < s.bounds[1] else s.bounds[0] for s in signature.inputs
    }
    return {name: np.full_like(array, nearest[name]) for name, array in inputs.items()}
