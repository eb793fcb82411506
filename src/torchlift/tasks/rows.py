"""Items of an iterable as samples of a component: which are batches, what fits, and what tells them from others."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from torchlift.checksums import sha256
from torchlift.datasets import SampleData
from torchlift.datasets.base import spread
from torchlift.datasets.memory import WANTED
from torchlift.declare.inputs import ImageInput, Input, TextInput, TextPart
from torchlift.errors import DataError, InputError, SignatureError
from torchlift.manifest import Component
from torchlift.pipelines.columns import Prepared
from torchlift.pipelines.prepare import Preparer, Rows, held
from torchlift.signature import BATCH, Axis, Signature, TensorSpec
from torchlift.storage import is_file


@dataclass(frozen=True)
class Taken:
    """Samples, prepared, with the target of each (None without), and plain data that tells them from others."""

    prepared: Prepared
    targets: list[Any]
    identity: list[Any]


@dataclass
class _Samples:
    """What each input has for each sample: an array, a text or a picture. ``constants`` are of inputs without a batch
    axis, in a component that has one.
    """

    inputs: dict[str, list[Any]]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    targets: list[Any] = field(default_factory=list)


def taken(component: Component, preparer: Preparer, data: SampleData) -> Taken:
    """The samples of all items, at most ``data.limit`` of them, evenly spaced. Raises DataError, which names the item,
    for one that does not fit the signature.
    """
    texts = component.inputs_of(TextInput)
    follow = {n for n, d in component.inputs.items() if isinstance(d, TextPart) and _has_texts(data, texts)}
    needed = [name for name in component.signature.input_names if name not in follow]
    samples = _Samples({name: [] for name in needed})
    for number, item in enumerate(data.items):
        try:
            _take(component, needed, item, samples)
        except (InputError, SignatureError) as error:
            raise DataError(f"{data.name}, item {number}: {error.message}", remedy=error.remedy) from error
    rows = [*spread(len(samples.targets), data.limit)]
    chosen = {name: [values[row] for row in rows] for name, values in samples.inputs.items() if values}
    arrays = {name for name, values in chosen.items() if not _is_prepared(component.inputs[name], values[0])}
    try:
        prepared = preparer.prepare({n: Rows(v) if n in arrays else v for n, v in chosen.items()} | samples.constants)
    except (InputError, SignatureError) as error:
        raise DataError(f"{data.name}: {error.message}", remedy=error.remedy) from error
    targets = [samples.targets[row] for row in rows]
    pictures = {*component.inputs_of(ImageInput)} - arrays
    inputs = {name: _identity(values, files=name in pictures) for name, values in chosen.items()}
    return Taken(prepared, targets, [inputs, _identity(samples.constants), _identity(targets)])


def _has_texts(data: SampleData, texts: Sequence[str]) -> bool:
    """Whether a text input is given as texts, so that others follow from it; as ids it comes with them."""

    def is_text(value: Any) -> bool:
        return isinstance(value, str) or (
            isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], str)
        )

    def has(value: Any) -> bool:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        return is_text(value) or any(map(is_text, parts))

    first = data.items[0]
    return bool(texts) and has(first[0] if isinstance(first, (list, tuple)) and len(first) == 2 else first)


def _take(component: Component, needed: Sequence[str], item: Any, samples: _Samples) -> None:
    """Add the samples of an item. Raises InputError and SignatureError for what does not fit."""
    inputs, target = _parted(item, needed)
    specs = {spec.name: spec for spec in component.signature.inputs}
    found: dict[str, list[Any] | None] = {}
    for name, value in inputs.items():
        if specs[name].batch_position is None and component.signature.batch is not None:
            _keep_constant(samples, specs[name], value)
        else:
            found[name] = _rows(component, specs[name], value)
    counts = {name: None if rows is None else len(rows) for name, rows in found.items()}
    if len({*counts.values()}) != 1:
        said = ", ".join(f"{n} {'one sample' if c is None else f'{c} samples'}" for n, c in counts.items())
        raise InputError(f"the inputs have different numbers of samples: {said}", remedy=WANTED)
    count = next(iter(counts.values()))
    for row in range(1 if count is None else count):
        given = {name: inputs[name] if rows is None else rows[row] for name, rows in found.items()}
        sample = {n: v if _is_prepared(component.inputs[n], v) else _array(specs[n], v) for n, v in given.items()}
        _check(component, {**sample, **samples.constants})
        for name, value in sample.items():
            samples.inputs[name].append(value)
    samples.targets += [target] if count is None else _targets(target, count)


def _parted(item: Any, needed: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """The inputs of an item by name, and its target. Raises InputError where names or their number do not fit."""
    inputs, target = item, None
    if isinstance(item, (list, tuple)) and len(item) == 2:
        inputs, target = item
    elif isinstance(item, (list, tuple)) and len(item) == len(needed) + 1 > 2:
        inputs, target = tuple(item[:-1]), item[-1]
    elif isinstance(item, dict):
        inputs = {name: value for name, value in item.items() if name in needed}
        rest = {name: value for name, value in item.items() if name not in needed}
        target = next(iter(rest.values())) if len(rest) == 1 else rest or None
    if isinstance(inputs, dict):
        missing = [name for name in needed if name not in inputs]
        unknown = [name for name in inputs if name not in needed]
        if missing or unknown:
            said = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown)
            raise InputError(
                f"its inputs do not fit: {'; '.join(said)}", remedy=f"The inputs are {', '.join(needed)}. {WANTED}"
            )
        return inputs, target
    if len(needed) == 1:
        only = inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs
        return {needed[0]: only}, target
    if not isinstance(inputs, (list, tuple)) or len(inputs) != len(needed):
        got = f"{len(inputs)} values" if isinstance(inputs, (list, tuple)) else f"a {type(inputs).__name__}"
        raise InputError(
            f"its inputs are {got}, and the model takes {len(needed)}",
            remedy=f"Give a tuple of {', '.join(needed)}, or a dict of them by name. {WANTED}",
        )
    return dict(zip(needed, inputs, strict=True)), target


def _rows(component: Component, spec: TensorSpec, value: Any) -> list[Any] | None:
    """The samples of an input in a batch, or None where it is a single sample."""
    if _is_prepared(component.inputs[spec.name], value):
        if isinstance(value, np.ndarray):
            return [*value] if value.ndim == 4 else None
        return [*value] if isinstance(value, (list, tuple)) else None
    array, position = _array(spec, value), spec.batch_position
    if position is None or array.ndim == len(spec.shape) - 1:
        return None
    if array.ndim != len(spec.shape):
        raise SignatureError(
            f"input {spec.name} is {array.dtype}{list(array.shape)}",
            remedy=f"A batch must be {spec}, a single sample without the dimension {BATCH}.",
        )
    return [*np.moveaxis(array, position, 0)]


def _is_prepared(declared: Input, value: Any) -> bool:
    """Whether a value is prepared as it is declared: texts, and pictures but those that are tensors already."""
    if isinstance(declared, TextInput):
        return not isinstance(value, np.ndarray)
    return isinstance(declared, ImageInput) and not (isinstance(value, np.ndarray) and value.dtype != np.uint8)


def _array(spec: TensorSpec, value: Any) -> np.ndarray:
    """An array as it is, numbers of Python as an array of the input's dtype. Raises InputError for anything else."""
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"input {spec.name} is no array: {error}", remedy="Give rows of the same length.") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"input {spec.name} is a {type(value).__name__}", remedy=f"Give an array, {spec}.")
    return held(array, np.dtype(spec.dtype))


def _check(component: Component, sample: Mapping[str, Any]) -> None:
    """Raise SignatureError for a sample with an array whose dtype, sizes or values the signature does not admit."""
    signature = component.signature
    arrays = {name: v for name, v in sample.items() if not _is_prepared(component.inputs[name], v)}
    specs = tuple(spec for spec in signature.inputs if spec.name in arrays)
    if not specs:
        return
    for spec in specs:
        position = spec.batch_position
        if position is not None and signature.batch is not None:
            shape = [*arrays[spec.name].shape]
            shape.insert(position, signature.batch.opt)
            arrays[spec.name] = np.broadcast_to(np.expand_dims(arrays[spec.name], position), shape)
    _of_inputs(specs, signature.axes).check(arrays)


@functools.lru_cache(16)
def _of_inputs(specs: tuple[TensorSpec, ...], axes: tuple[Axis, ...]) -> Signature:
    """The signature of some inputs alone."""
    return Signature(specs, (), axes)


def _keep_constant(samples: _Samples, spec: TensorSpec, value: Any) -> None:
    array = _array(spec, value)
    if not np.array_equal(samples.constants.setdefault(spec.name, array), array, equal_nan=array.dtype.kind == "f"):
        raise SignatureError(
            f"input {spec.name}, {spec}, has no batch axis, and is another than in the items before",
            remedy="Give the same in every item: all samples share it.",
        )


def _targets(target: Any, count: int) -> list[Any]:
    """The target of each of ``count`` samples of a batch. Raises InputError where they are of another number."""
    if target is None:
        return [None] * count
    if isinstance(target, dict):
        parts = {key: _targets(part, count) for key, part in target.items()}
        return [{key: rows[row] for key, rows in parts.items()} for row in range(count)]
    if isinstance(target, np.ndarray) and target.ndim and len(target) == count:
        return [*target]
    if isinstance(target, (list, tuple)):
        in_parts = bool(target) and all(isinstance(p, np.ndarray) and p.ndim and len(p) == count for p in target)
        if in_parts and len(target) != count:
            return [*zip(*target, strict=True)]
        if in_parts and count > 1:
            raise InputError(
                f"the target is {count} arrays of {count} rows: one for each sample, or parts of all?",
                remedy="Give the parts in a dict, or the samples one by one.",
            )
        if len(target) == count:
            return [*target]
    said = f"{target.dtype}{list(target.shape)}" if isinstance(target, np.ndarray) else f"a {type(target).__name__}"
    raise InputError(
        f"the inputs are a batch of {count}, and the target, {said}, has not a row for each",
        remedy=f"Give {count} targets: an array with {count} rows, a list of {count}, or a dict of such.",
    )


def _identity(value: Any, files: bool = False) -> Any:
    """Plain data that tells a value from others: a SHA-256 for each array, picture and, with ``files``, file."""
    if isinstance(value, Mapping):
        return {key: _identity(part, files) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_identity(part, files) for part in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return [str(value.dtype), [*value.shape], hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if hasattr(value, "tobytes"):
        return [list(value.size), hashlib.sha256(value.tobytes()).hexdigest()]
    if files and isinstance(value, (os.PathLike, str)) and is_file(Path(value)):
        return sha256(Path(value))
    return value if isinstance(value, (str, bool, int, float, type(None))) else str(value)
