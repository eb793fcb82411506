"""Inputs beyond the goldens, with PyTorch's answers: much larger ones, NaN, infinity, zeros, a mask without a token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from torchlift.bundle import Bundle
from torchlift.companions import may_loop
from torchlift.declare.inputs import Input, TextPart
from torchlift.errors import TorchliftError
from torchlift.evidence import Stress
from torchlift.manifest import Component
from torchlift.prove.goldens import Golden, load_samples_of, write_goldens
from torchlift.signature import Signature, TensorSpec

STRESS = "stress.safetensors"
"""The file of the samples, beside the goldens."""

STRESSES: tuple[Stress, ...] = ("large", "nan", "infinite", "zero", "masked")
"""The kinds, in the order in which they are noted."""

LARGER = 100.0
"""The factor of the kind ``large``."""

Arrays = Mapping[str, np.ndarray]


def stress_samples(
    signature: Signature,
    inputs: Mapping[str, Input],
    goldens: Iterable[Golden],
    answer: Callable[[Arrays], Mapping[str, np.ndarray]],
    file: Path,
) -> list[Golden]:
    """Every kind of stress that the inputs know, made from the smallest golden, with what ``answer`` gives.

    A kind that the network refuses is left out. ``file`` is the exported graph: one with loops gets no samples,
    since it may never end on such inputs.
    """
    if may_loop(file.name, lambda _: file.read_bytes()):
        return []
    smallest = min(goldens, key=lambda golden: sum(array.size for array in golden.inputs.values()))
    found = []
    for kind, feeds in _stressed(signature, inputs, smallest.inputs):
        try:
            found.append(Golden(kind, feeds, answer(feeds)))
        except TorchliftError:
            continue  # the network itself does not take it
    return found


def save_stress(folder: Path, samples: Iterable[Golden]) -> None:
    """Write the samples beside the goldens in ``folder``; without samples, no file."""
    if samples := tuple(samples):
        write_goldens(folder / STRESS, samples)


def stress_file(bundle: Bundle, component: Component) -> str:
    """The path of a component's samples within the bundle; empty where there are none."""
    path = PurePosixPath(component.goldens).with_name(STRESS).as_posix()
    return path if path in bundle.manifest.files else ""


def _stressed(signature: Signature, inputs: Mapping[str, Input], golden: Arrays) -> Iterator[tuple[Stress, Arrays]]:
    floats = [spec.name for spec in signature.inputs if spec.dtype.startswith("float") and golden[spec.name].size]
    if floats:
        with np.errstate(over="ignore"):
            large = {name: (golden[name] * golden[name].dtype.type(LARGER)) for name in floats}
        yield "large", {**golden, **large}
        yield "nan", {**golden, **{name: _spoilt(golden[name], np.nan) for name in floats}}
        yield "infinite", {**golden, **{name: _spoilt(golden[name], np.inf) for name in floats}}
        yield "zero", {**golden, **{name: np.zeros_like(golden[name]) for name in floats}}
    masks = [spec.name for spec in signature.inputs if _is_mask(spec, inputs)]
    if masks:
        yield "masked", {**golden, **{name: _first_row_empty(golden[name]) for name in masks}}


def _spoilt(array: np.ndarray, value: float) -> np.ndarray:
    """The array with its middle element replaced."""
    spoilt = array.copy()
    spoilt.flat[spoilt.size // 2] = value
    return spoilt


def _is_mask(spec: TensorSpec, inputs: Mapping[str, Input]) -> bool:
    """Whether an input says of each token whether it counts: declared so, or called so and without other values."""
    declared, bounds = inputs.get(spec.name), spec.whole_bounds
    if isinstance(declared, TextPart):
        return declared.part == "mask" and (bounds is None or bounds[0] <= 0)
    zero = spec.dtype == "bool" or ("int" in spec.dtype and bounds in (None, (0, 1)))
    return zero and "mask" in spec.name.lower() and len(spec.shape) >= 2


def _first_row_empty(array: np.ndarray) -> np.ndarray:
    emptied = array.copy()
    emptied[:1] = 0
    return emptied


def load_stress(bundle: Bundle, component: Component) -> list[Golden]:
    """The samples of a component, in the order of their kinds; empty where there are none.

    Raises BundleError where the file holds something else.
    """
    path = stress_file(bundle, component)
    found = load_samples_of(bundle, path, component.signature) if path else {}
    return [found[kind] for kind in STRESSES if kind in found]


def included(signature: Signature, sample: Golden) -> bool:
    """Whether the declared bounds of all floats include a sample. A mask has no floats of its own."""
    floats = [spec for spec in signature.inputs if spec.dtype.startswith("float")]
    if not floats or sample.name == "masked":
        return False
    return all(_within(spec, sample.inputs[spec.name]) for spec in floats)


def _within(spec: TensorSpec, array: np.ndarray) -> bool:
    if spec.bounds is None:
        return False
    low, high = spec.bounds
    return bool(np.all((low <= array) & (array <= high)))
