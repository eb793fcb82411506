"""A call of the network that was shipped: its arguments as the inputs of the bundle, outputs as what it returns.

For example ``forward(ids, mask=None)`` that returns ``{"logits": ...}``: ``net(ids, mask=mask).logits``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torchlift.declare.call import Call, Structure
from torchlift.errors import InputError
from torchlift.manifest import Component

RETURN_DICT = "return_dict"
"""An argument of networks of transformers, which is heeded: whether they return an object with keys, or a tuple."""

_MORE = ("output_attentions", "output_hidden_states", "use_cache")
"""Arguments of networks of transformers that ask for further outputs; False is heeded."""

_NOT_THERE = ("loss", "hidden_states", "attentions", "cross_attentions", "past_key_values")
"""What outputs of transformers have as None where a network was not asked for it."""

IsTensor = Callable[[Any], bool]


class Outputs(dict[str, Any]):
    """What a network returns by name, as transformers gives it: ``y["logits"]``, ``y.logits`` and ``y[0]`` are the
    same. Positions count what is there, and so does :meth:`to_tuple`.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in _NOT_THERE:
            return None
        raise AttributeError(f"there is no output {name!r}; there are {', '.join(self)}")

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        """The values without None."""
        return tuple(value for value in self.values() if value is not None)


def call_of(component: Component) -> Call:
    """How the network of a component is called; where that is not known, with its inputs in their order, and it returns
    its only output, or a tuple of all.
    """
    if component.call is not None:
        return component.call
    outputs = component.signature.output_names
    return Call(component.signature.input_names, outputs[0] if len(outputs) == 1 else [*outputs])


def inputs_of(
    call: Call, names: Sequence[str], args: Sequence[Any], keywords: Mapping[str, Any], is_tensor: IsTensor
) -> dict[str, Any]:
    """The tensors and numbers in the arguments of a call, by the name of the input that each is.

    Raises InputError for an argument that there is not or twice, for a tensor that is no input, and for another Python
    value than the network was exported with.
    """
    parameters = call.parameters
    if len(args) > len(parameters):
        raise InputError(
            f"{len(args)} arguments are given by position, and the network takes {len(parameters)}",
            remedy=f"They are {', '.join(parameters)}.",
        )
    given = dict(zip(parameters, args, strict=False))
    named = [call.renamed.get(name, name) for name in keywords]
    twice = [name for name, put in zip(keywords, named, strict=True) if put in given or named.count(put) > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice", remedy="Give it once.")
    found = {}
    for path, value in _leaves({**given, **dict(zip(named, keywords.values(), strict=True))}, is_tensor):
        if path in names and value is not None:
            found[path] = value
        else:
            _check_constant(call, names, path, value, is_tensor)
    return found


def returned(structure: Structure, outputs: Mapping[str, Any]) -> Any:
    """Outputs in the structure that the network returns them in. What is a dict there has attributes too."""
    if structure is None or isinstance(structure, str):
        return None if structure is None else outputs[structure]
    if isinstance(structure, Mapping):
        return Outputs({name: returned(part, outputs) for name, part in structure.items()})
    return tuple(returned(part, outputs) for part in structure)


def _leaves(value: Any, is_tensor: IsTensor, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested arguments, each with its path: of ``state=(h, c)`` they are ``state.0`` and ``state.1``."""
    parts: Any = None
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    elif hasattr(value, "__dataclass_fields__") and not is_tensor(value):
        parts = [(name, getattr(value, name)) for name in value.__dataclass_fields__]
    if parts is None:
        yield path, value
        return
    for name, part in parts:
        yield from _leaves(part, is_tensor, f"{path}.{name}" if path else str(name))


def _check_constant(call: Call, names: Sequence[str], path: str, value: Any, is_tensor: IsTensor) -> None:
    """Raise InputError for an argument that is no input, unless it is what the network was exported with."""
    if is_tensor(value):
        raise InputError(
            f"the argument {path} is a tensor, and the bundle has no such input",
            remedy=f"The inputs are {', '.join(names)}. Ship the network again with {path} among them.",
        )
    if path == RETURN_DICT or (path in _MORE and not value):
        return
    known = path in call.constants
    same = value == call.constants[path] if known else value is None
    if not same:
        said = f"it was exported with {call.constants[path]!r}" if known else "the bundle has no such input"
        raise InputError(
            f"the argument {path} is {value!r:.60}, and {said}",
            remedy=f"Leave it out, or ship the network again so. The inputs are {', '.join(names)}.",
        )
