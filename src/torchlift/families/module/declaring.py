"""Completes what a user declares of a network: from example inputs, from pictures and texts, from its embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from torchlift.axes import BATCH, Axis
from torchlift.declare.inputs import ImageInput, QuestionInput, TextInput, TextPart
from torchlift.declare.module import ModuleDeclaration
from torchlift.errors import ModuleSourceError
from torchlift.families.module.binding import Binding, Called, bind_example, bind_names
from torchlift.families.module.limits import bounds_of, embedding_limits
from torchlift.families.module.rows import batch_dimension
from torchlift.families.samples import BoundsSampler
from torchlift.families.sizes import distinct_sizes
from torchlift.signature import TensorSpec

_BATCH = (1, 8, 64)
"""The range of the batch axis where none is declared."""

_SEQUENCE, _SHORTEST, _USUAL = "sequence", 2, 32
"""The axis of the tokens of a text where none is declared, its least size and its optimum."""


def completed(
    network: nn.Module, declaration: ModuleDeclaration, bounded: Callable[[TensorSpec], TensorSpec]
) -> tuple[ModuleDeclaration, Binding]:
    """The declaration with every input, axis and bound that can be known, and how the inputs are passed. ``bounded``
    gives an input the bounds that its tokenizer tells.

    Raises ModuleSourceError where nothing says what the network takes, or what is said does not fit ``forward``.
    """
    tensors: dict[str, Tensor] = {}
    if declaration.example is not None and not declaration.inputs:
        binding, tensors = bind_example(network, declaration.example)
        declaration = replace(declaration, inputs=_specs_of(tensors, batch_dimension(network, binding, tensors)))
    else:
        declaration = replace(declaration, inputs=(*declaration.inputs, *_implied(declaration)))
        if not declaration.inputs:
            raise ModuleSourceError(
                "nothing says what the network takes",
                remedy="Give example= inputs, or declare inputs= with their axes: torchlift.module(inputs=...) in "
                "a file.",
            )
        binding = bind_names(network, [spec.name for spec in declaration.inputs])
        if declaration.example is not None:
            tensors = _as_declared(network, declaration)
    declaration = replace(
        declaration,
        inputs=tuple(map(bounded, declaration.inputs)),
        axes=(*declaration.axes, *_missing_axes(declaration)),
    )
    unused = {axis.name for axis in declaration.axes} - {dim for spec in declaration.inputs for dim in spec.shape}
    if unused:
        raise ModuleSourceError(
            f"the axis {', '.join(sorted(unused))} is declared, and no input has it",
            remedy="Name the axis in the shape of an input, as in TensorSpec('x', 'float32', ('batch', 'length')).",
        )
    if declaration.sample is None:
        declaration = _bounded(network, declaration, binding, tensors)
    return declaration, binding


def _specs_of(tensors: Mapping[str, Tensor], batch: int | None) -> tuple[TensorSpec, ...]:
    """Inputs as examples tell them, with the axis ``batch`` at that dimension."""
    return tuple(
        TensorSpec(
            name,
            str(tensor.dtype).removeprefix("torch."),
            tuple(BATCH if position == batch else size for position, size in enumerate(tensor.shape)),
        )
        for name, tensor in tensors.items()
    )


def _as_declared(network: nn.Module, declaration: ModuleDeclaration) -> dict[str, Tensor]:
    """Example tensors of declared inputs, by name. Raises ModuleSourceError where they are not of the declared kind."""
    _, tensors = bind_example(network, declaration.example)
    names = [spec.name for spec in declaration.inputs]
    if {*tensors} != {*names} and len(tensors) == len(names):
        tensors = dict(zip(names, tensors.values(), strict=True))
    for spec in declaration.inputs:
        tensor = tensors.get(spec.name)
        if tensor is None or str(tensor.dtype) != f"torch.{spec.dtype}" or tensor.ndim != len(spec.shape):
            said = "missing" if tensor is None else f"{str(tensor.dtype)[6:]}{list(tensor.shape)}"
            raise ModuleSourceError(
                f"the example of input {spec.name} is {said}, and {spec} is declared",
                remedy="Give an example for every declared input, or leave the examples out.",
            )
    return tensors


def _implied(declaration: ModuleDeclaration) -> list[TensorSpec]:
    """Inputs that are only declared to be pictures or texts."""
    known = {spec.name for spec in declaration.inputs}
    found = []
    for name, declared in declaration.preprocess.items():
        if name in known:
            continue
        match declared:
            case ImageInput(size=size) as image:
                sides = ("height", "width") if image.varies or size is None else size
                found.append(TensorSpec(name, "float32", (BATCH, 3, *sides)))
            case TextInput() | QuestionInput() | TextPart():
                found.append(TensorSpec(name, "int64", (BATCH, _SEQUENCE)))
    return found


def _missing_axes(declaration: ModuleDeclaration) -> list[Axis]:
    """The batch, and the tokens of texts, where no range is declared."""
    known = {axis.name for axis in declaration.axes}
    used = {dim for spec in declaration.inputs for dim in spec.shape if isinstance(dim, str)}
    found = [Axis(BATCH, *_BATCH)] if BATCH in used - known else []
    texts = [text for text in declaration.preprocess.values() if isinstance(text, (TextInput, QuestionInput))]
    if texts and _SEQUENCE in used - known:
        longest = max(text.length for text in texts)
        found.append(Axis(_SEQUENCE, _SHORTEST, min(_USUAL, longest), longest))
    return found


def _bounded(
    network: nn.Module, declaration: ModuleDeclaration, binding: Binding, examples: Mapping[str, Tensor]
) -> ModuleDeclaration:
    """Bounds for integers that state none: those of the embedding that reads them, which become the input's own.

    What no embedding reads is drawn like its example. Others may be served, so that these are no bounds of the input.
    """
    names = [s.name for s in declaration.inputs if s.dtype.startswith(("int", "uint")) and s.bounds is None]
    if not names:
        return declaration
    tensors = {**_small(declaration, names), **examples}
    inputs = [tensors[spec.name] for spec in declaration.inputs]
    try:
        limits = embedding_limits(Called(network, binding), [s.name for s in declaration.inputs], inputs)
    except Exception:
        limits = {}  # the network is run again later, where its failure is explained
    inputs_now = tuple(
        replace(spec, bounds=(0, limits[spec.name])) if spec.name in names and spec.name in limits else spec
        for spec in declaration.inputs
    )
    declaration = replace(declaration, inputs=inputs_now)
    drawn = {n: b for n, b in bounds_of(examples).items() if n in names and n not in limits}
    if not drawn:
        return declaration
    alike = tuple(replace(spec, bounds=drawn.get(spec.name, spec.bounds)) for spec in inputs_now)
    return replace(declaration, sample=BoundsSampler(alike))


def _small(declaration: ModuleDeclaration, names: Sequence[str]) -> dict[str, Tensor]:
    """Inputs near the optimum whose unbounded integers are 0 or 1: these are legal wherever two values are."""
    import numpy as np

    specs = tuple(replace(spec, bounds=(0, 2)) if spec.name in names else spec for spec in declaration.inputs)
    feeds = BoundsSampler(specs)(distinct_sizes(declaration.axes), np.random.default_rng(0))
    return {name: torch.from_numpy(array) for name, array in feeds.items()}
