"""How a user says what a network of their own takes and gives: a decorator on the function that builds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torchlift.declare.answers import Answer
from torchlift.declare.inputs import Input
from torchlift.signature import Axis, TensorSpec

if TYPE_CHECKING:
    import numpy as np

Builder = TypeVar("Builder", bound=Callable)

Sample = Callable[[Mapping[str, int], "np.random.Generator"], "dict[str, np.ndarray]"]
"""Draws inputs for given sizes of the axes: input name -> array."""

ATTRIBUTE = "__torchlift__"


@dataclass(frozen=True)
class ModuleDeclaration:
    """What a user says of a network. The fields are the arguments of :func:`module`. ``example`` are example inputs,
    where these say it: a tensor, a tuple by position, or a dict by name.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    preprocess: Mapping[str, Input] = field(default_factory=dict)
    postprocess: Mapping[str, Answer] = field(default_factory=dict)
    sample: Sample | None = None
    example: Any = None


def module(
    *,
    inputs: Sequence[TensorSpec] = (),
    outputs: Sequence[str] = (),
    axes: Sequence[Axis] = (),
    preprocess: Mapping[str, Input] | None = None,
    postprocess: Mapping[str, Answer] | None = None,
    sample: Sample | None = None,
) -> Callable[[Builder], Builder]:
    """Declare the nn.Module that the decorated function returns.

    For example a classifier of pictures takes five lines::

        @tl.module(
            preprocess={"pixels": tl.ImageInput((224, 224), MEAN, STD)}, postprocess={"logits": tl.Labels(NAMES)}
        )
        def build():
            return Net()

    Args:
        inputs: What ``forward`` takes: name, dtype, shape with axis names. Names that are forward's parameters are
            bound by name, ``state.0`` to a part of ``state``; other names by position. An input that ``preprocess``
            declares to be a picture or a text need not be named here.
        outputs: Names of what ``forward`` returns. Those of a dict or a dataclass are its keys: then these choose some
            of them. A tuple's tensors are named in order. Their shapes are found by running the network.
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
