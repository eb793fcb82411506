"""The Python values that a network was exported with: they are part of the graph, and cannot be given in a call."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from torchlift.families.module.binding import Binding, Slot

_PLAIN = (bool, int, float, str, type(None))


def constants_of(network: nn.Module, binding: Binding) -> dict[str, Any]:
    """Parameter or path -> value: what was given besides tensors, and the defaults of parameters that got nothing.

    For example ``{"causal": False}`` of ``forward(x, causal=False)`` that is called with x alone.
    """
    given = {**dict(zip(binding.parameters, binding.positional, strict=False)), **binding.keywords}
    found = {path: value for name, argument in given.items() for path, value in _values(name, argument)}
    if isinstance(network, torch.jit.ScriptModule):
        return found
    parameters = inspect.signature(network.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if isinstance(p.default, _PLAIN) and p.name not in given}
    return {**found, **defaults}


def _values(path: str, argument: Any) -> Iterator[tuple[str, Any]]:
    """The plain values in an argument that are no inputs, each with its path."""
    if isinstance(argument, Mapping):
        for key, part in argument.items():
            yield from _values(f"{path}.{key}", part)
    elif isinstance(argument, (tuple, list)):
        for position, part in enumerate(argument):
            yield from _values(f"{path}.{position}", part)
    elif not isinstance(argument, Slot) and isinstance(argument, _PLAIN):
        yield path, argument
