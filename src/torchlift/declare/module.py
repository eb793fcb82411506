"""How a user says what a network of their own takes and gives: a decorator on the function that builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from torchlift.declare.answers import Answer
from torchlift.declare.inputs import Input
from torchlift.signature import Axis, TensorSpec

if TYPE_CHECKING:
    import numpy as np

Builder = TypeVar("Builder", bound=Callable)

ATTRIBUTE = "__torchlift__"


@dataclass(frozen=True)
class ModuleDeclaration:
    """What :func:`module` was told."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    axes: tuple[Axis, ...] = ()
    preprocess: Mapping[str, Input] = field(default_factory=dict)
    postprocess: Mapping[str, Answer] = field(default_factory=dict)
    sample: Callable[[Mapping[str, int], np.random.Generator], dict[str, np.ndarray]] | None = None


def module(
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    axes: Sequence[Axis] = (),
    preprocess: Mapping[str, Input] | None = None,
    postprocess: Mapping[str, Answer] | None = None,
    sample: Callable[[Mapping[str, int], np.random.Generator], dict[str, np.ndarray]] | None = None,
) -> Callable[[Builder], Builder]:
    """Declare the nn.Module that the decorated function returns.

    Args:
        inputs: The arguments of ``forward``, in its order: name, dtype, shape with axis names.
        outputs: Names of what ``forward`` returns, a tensor or a tuple; their shapes are found by running it.
        axes: The range of every axis that the inputs name. Rows of an axis called ``batch`` must be independent.
        preprocess: Input name -> what it takes: an ImageInput, a TextInput, or a TextPart that follows from a text. It
            goes into the bundle, with the tokenizer's file, and needs no torch.
        postprocess: Output name -> what it says: Labels or an Embedding.
        sample: Draws inputs for given axis sizes, where values drawn from each TensorSpec's bounds are not realistic.
    """
    declaration = ModuleDeclaration(
        tuple(inputs), tuple(outputs), tuple(axes), dict(preprocess or {}), dict(postprocess or {}), sample
    )

    def mark(builder: Builder) -> Builder:
        setattr(builder, ATTRIBUTE, declaration)
        return builder

    return mark
