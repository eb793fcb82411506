"""Which parameter of ``forward`` each declared input is, and the network as a function of flat tensors."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchlift.axes import shown
from torchlift.errors import ModuleSourceError
from torchlift.families.module.returns import filled, leaves_of

INNER = "network"
"""The attribute of :class:`Called` that holds the network: the first part of the paths of all its modules."""

_SIMPLE = (bool, str, type(None))
"""Python values that an argument may have: they choose what the network does, and compute nothing."""


@dataclass(frozen=True)
class Slot:
    """The place of an input in the arguments, by the input's name."""

    name: str


@dataclass(frozen=True)
class Parameters:
    """The parameters of ``forward``: ``names`` in order, those without a default, those that can be given by position,
    and whether it takes any others.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    positional: tuple[str, ...]
    any_positional: bool
    any_keyword: bool

    @classmethod
    def of(cls, network: nn.Module) -> Parameters:
        if isinstance(network, torch.jit.ScriptModule):
            found = [argument.name for argument in network.forward.schema.arguments[1:]]
            needed = [a.name for a in network.forward.schema.arguments[1:] if not a.has_default_value()]
            return cls(tuple(found), tuple(needed), tuple(found), False, False)
        parameters = inspect.signature(network.forward).parameters.values()
        usual = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return cls(
            names=tuple(p.name for p in usual),
            required=tuple(p.name for p in usual if p.default is p.empty),
            positional=tuple(p.name for p in usual if p.kind is not p.KEYWORD_ONLY),
            any_positional=any(p.kind is p.VAR_POSITIONAL for p in parameters),
            any_keyword=any(p.kind is p.VAR_KEYWORD for p in parameters),
        )

    def __str__(self) -> str:
        more = ["*args"] * self.any_positional + ["**kwargs"] * self.any_keyword
        return f"forward({', '.join([*self.names, *more])})"


@dataclass(frozen=True)
class Binding:
    """The arguments of a call: values with a :class:`Slot` in the place of each input, by position and by keyword.

    ``inputs`` are the names of the inputs, in the order of their declaration. ``renamed`` has the input of each
    parameter of ``forward`` that is bound by position to an input of another name.
    """

    inputs: tuple[str, ...]
    positional: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    def arguments(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with ``tensors``, in the order of ``inputs``, in the places of the slots."""
        given = dict(zip(self.inputs, tensors, strict=True))

        def fill(leaf: Any) -> Any:
            return given[leaf.name] if isinstance(leaf, Slot) else leaf

        return filled(self.positional, fill), filled(dict(self.keywords), fill)


def bind_names(network: nn.Module, names: Sequence[str]) -> Binding:
    """Bind declared inputs to the parameters of ``forward``.

    Names that are parameters are bound by name, whatever their order: ``input_ids, token_type_ids, attention_mask`` of
    ``forward(input_ids, attention_mask, token_type_ids)``. Where no name is a parameter, inputs are bound by position.
    A dotted name is a part of a parameter: ``state.0`` and ``state.1`` make a tuple, ``config.a`` a dict.

    Raises ModuleSourceError where some names are parameters and others are not, where a parameter gets nothing, and
    where there are more inputs than parameters.
    """
    parameters = Parameters.of(network)
    roots = {name: _root(name, parameters) for name in names}
    strange = [name for name, root in roots.items() if root not in parameters.names]
    if len(strange) == len(names) and not (parameters.any_keyword and not parameters.names):
        return _by_position(parameters, names)
    if strange and not parameters.any_keyword:
        raise ModuleSourceError(
            f"{', '.join(strange)} {'is' if len(strange) == 1 else 'are'} declared, and {parameters} has no such "
            f"parameter, while it has {', '.join(name for name in names if name not in strange)}",
            remedy="Name every input as the parameter that takes it, or none of them: then they go by position.",
        )
    keywords: dict[str, Any] = {}
    for name, root in roots.items():
        if name == root:
            keywords[name] = Slot(name)
        else:
            _put(keywords, root, name.removeprefix(f"{root}.").split("."), Slot(name))
    keywords = {name: _tupled(value) for name, value in keywords.items()}
    _require_all(parameters, keywords)
    leading = itertools.takewhile(keywords.__contains__, parameters.positional)
    first = [keywords.pop(name) for name in [*leading]]  # by position, as hooks of the user's may expect
    return Binding(tuple(names), tuple(first), keywords, parameters.names)


def bind_example(network: nn.Module, example: Any) -> tuple[Binding, dict[str, Tensor]]:
    """Bind example arguments: a tensor, a tuple by position, or a dict by name. Returns the tensors by input name too.

    Tensors in nested containers are inputs that are named by their path. True, False, None and strings stay what they
    are in every call. Raises ModuleSourceError for other Python values, and for arguments that ``forward`` lacks.
    """
    parameters = Parameters.of(network)
    if isinstance(example, Mapping):
        unknown = [name for name in example if name not in parameters.names and not parameters.any_keyword]
        if unknown:
            raise ModuleSourceError(
                f"the example inputs name {', '.join(map(str, unknown))}, and {parameters} has no such parameter",
                remedy="Name its parameters, or give a tuple of inputs by position.",
            )
        _require_all(parameters, example)
        order = [name for name in parameters.names if name in example]
        given = {str(name): example[name] for name in (*order, *(n for n in example if n not in order))}
        positional = 0
    else:
        values = example if isinstance(example, (tuple, list)) else (example,)
        named = parameters.names[: len(values)]
        if len(values) > len(named) and not parameters.any_positional:
            raise ModuleSourceError(
                f"{len(values)} example inputs are given, and {parameters} takes {len(named)}",
                remedy="Give one for each of its parameters, from the first on.",
            )
        given = dict(zip([*named, *(f"input{i}" for i in range(len(named), len(values)))], values, strict=True))
        _require_all(parameters, given)
        positional = len(values)
    tensors: dict[str, Tensor] = {}
    slots = {name: _slots(value, name, tensors) for name, value in given.items()}
    if not tensors:
        raise ModuleSourceError("the example inputs hold no tensor", remedy="Give a tensor for each input that varies.")
    arguments = [*slots.values()]
    keywords = {} if positional else slots
    return Binding(tuple(tensors), tuple(arguments[:positional]), keywords, parameters.names or tuple(given)), tensors


def _root(name: str, parameters: Parameters) -> str:
    """The parameter that an input belongs to: of ``state.0`` it is ``state``."""
    return name if name in parameters.names else name.partition(".")[0]


def _by_position(parameters: Parameters, names: Sequence[str]) -> Binding:
    if len(names) > len(parameters.positional) and not parameters.any_positional:
        keyword_only = [name for name in parameters.names if name not in parameters.positional]
        raise ModuleSourceError(
            f"{len(names)} inputs are declared ({', '.join(names)}), and {parameters} takes "
            f"{len(parameters.positional)} by position",
            remedy=f"Name each input as the parameter that takes it: {', '.join(parameters.names)}."
            if keyword_only
            else "Declare one for each of its parameters.",
        )
    _require_all(parameters, parameters.positional[: len(names)])
    renamed = dict(zip(parameters.positional, names, strict=False))
    return Binding(tuple(names), tuple(Slot(name) for name in names), {}, tuple(names), renamed)


def _require_all(parameters: Parameters, given: Any) -> None:
    missing = [name for name in parameters.required if name not in given]
    if missing:
        raise ModuleSourceError(
            f"{parameters} needs {', '.join(missing)}, and no such input is given",
            remedy="Give an input for every parameter that has no default.",
        )


def _put(into: dict[str, Any], key: str, path: list[str], slot: Slot) -> None:
    inner = into.setdefault(key, {})
    if len(path) == 1:
        inner[path[0]] = slot
    else:
        _put(inner, path[0], path[1:], slot)


def _tupled(value: Any) -> Any:
    """Dicts whose keys are 0, 1, 2, ... as tuples."""
    if not isinstance(value, dict):
        return value
    inner = {key: _tupled(part) for key, part in value.items()}
    positions = [str(i) for i in range(len(inner))]
    return tuple(inner[position] for position in positions) if {*inner} == {*positions} else inner


def _slots(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value with a slot in the place of each tensor, which goes into ``tensors``. Arrays count as tensors."""
    import numpy as np

    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        tensors[path] = value
        return Slot(path)
    if isinstance(value, Mapping):
        return {key: _slots(part, f"{path}.{key}", tensors) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value._fields, value, strict=True)
        return type(value)(*(_slots(part, f"{path}.{name}", tensors) for name, part in parts))
    if isinstance(value, (tuple, list)):
        return type(value)(_slots(part, f"{path}.{i}", tensors) for i, part in enumerate(value))
    if isinstance(value, _SIMPLE):
        return value
    raise ModuleSourceError(
        f"the example input {path} is the Python value {shown(value)}: it would be baked into the graph",
        remedy="Pass a tensor, for example torch.tensor(...), and compute with it as one.",
    )


class Called(nn.Module):
    """A network as a function of flat tensors: it takes the inputs by position, and returns a tuple of its outputs.

    ``outputs`` are positions among the leaves of what the network returns; None before these are known: then all are
    returned.
    """

    def __init__(self, network: nn.Module, binding: Binding, outputs: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.binding = binding
        self.outputs = None if outputs is None else tuple(outputs)
        self.eval()

    def returned(self, *tensors: Tensor) -> Any:
        """What the network itself returns."""
        positional, keywords = self.binding.arguments(tensors)
        return self.network(*positional, **keywords)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = leaves_of(self.returned(*tensors))
        chosen = range(len(leaves)) if self.outputs is None else self.outputs
        return tuple(leaves[position][1] for position in chosen)
