"""What a network returns, as people write it, and the tensors in it: dicts, dataclasses, tuples, lists and None."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from torchlift.declare.call import Structure

Items = list[tuple[str, Any]]


def parts_of(value: Any) -> Items | None:
    """The parts of a container, each with its key, attribute or position. None for what is no container.

    A container is a dict (also a ModelOutput of transformers), a dataclass, a named tuple, a tuple, a list, a cache of
    keys and values as transformers has it, or a class that is registered with torch's pytree.
    """
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return [(str(position), part) for position, part in enumerate(value)]
    layers = getattr(value, "layers", None)
    if type(value).__name__.endswith("Cache") and isinstance(layers, list):
        return [
            (str(i), {"keys": layer.keys, "values": layer.values}) for i, layer in enumerate(layers) if _kept(layer)
        ]
    node = pytree.SUPPORTED_NODES.get(type(value))
    if node is None:
        return None
    return [(str(position), part) for position, part in enumerate(node.flatten_fn(value)[0])]


def _kept(layer: Any) -> bool:
    """Whether a layer of a cache of transformers holds keys and values."""
    return all(isinstance(getattr(layer, name, None), Tensor) for name in ("keys", "values"))


def leaves_of(value: Any, path: str = "") -> Items:
    """The leaves of nested containers, each with its path: ``{"h": (a, b)}`` has ``h.0`` and ``h.1``. None is no leaf.

    Numbers become tensors, so that a size such as ``x.shape[1]`` can be returned too.
    """
    if value is None:
        return []
    parts = None if isinstance(value, Tensor) else parts_of(value)
    if parts is None:
        return [(path, _as_tensor(value))]
    found: Items = []
    for name, part in parts:
        found.extend(leaves_of(part, f"{path}.{name}" if path else name))
    return found


def _as_tensor(value: Any) -> Any:
    """A number as a tensor without dimensions: a whole one int64, a real one float32. Anything else as it is."""
    if isinstance(value, bool):
        return torch.tensor(value)
    if isinstance(value, (int, torch.SymInt)):
        return torch.scalar_tensor(value, dtype=torch.int64)
    if isinstance(value, (float, torch.SymFloat)):
        return torch.scalar_tensor(value, dtype=torch.float32)
    return value


def structure_of(value: Any, names: Iterator[str | None]) -> Structure:
    """The same containers with a name in the place of each leaf; see :data:`torchlift.declare.call.Structure`.

    ``names`` gives the name of each leaf, in order; None for a leaf that is left out.
    """
    if value is None:
        return None
    parts = None if isinstance(value, Tensor) else parts_of(value)
    if parts is None:
        return next(names)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return [structure_of(part, names) for _, part in parts]
    return {name: structure_of(part, names) for name, part in parts}


def filled(template: Any, fill: Callable[[Any], Any]) -> Any:
    """A copy of nested dicts, tuples and lists in which ``fill`` replaces each leaf."""
    if isinstance(template, Mapping):
        return {key: filled(part, fill) for key, part in template.items()}
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*(filled(part, fill) for part in template))
    if isinstance(template, (tuple, list)):
        return type(template)(filled(part, fill) for part in template)
    return fill(template)
