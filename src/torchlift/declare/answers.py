"""What a component gives, output by output: an embedding, labels, a span, or an array. Plain data, in a manifest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from torchlift.declare.inputs import Channels, Scale
from torchlift.errors import InputError

Activation = Literal["softmax", "sigmoid", "none"]


class Embedding(msgspec.Struct, frozen=True, tag_field="kind", tag="embedding"):
    """A vector a row, float [batch, width], that is compared with others by its direction.

    ``normalize``: each row is scaled to length 1, unless the caller asks for it as it is.
    """

    normalize: bool = True


class Labels(msgspec.Struct, frozen=True, tag_field="kind", tag="labels"):
    """The logits of a classifier, float [batch, classes], read as the ``top`` best names, scored by ``activation``.

    Raises InputError where a name is missing, ``top`` is below 1 or the activation is unknown.
    """

    names: tuple[str, ...]
    top: int = 5
    activation: Activation = "softmax"

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "names", _checked(self.names))
        if self.top < 1:
            raise InputError(f"top is {self.top}", remedy="Ask for 1 label or more.")
        if self.activation not in get_args(Activation):
            raise InputError(
                f"activation {self.activation!r} is unknown", remedy=f"Use one of {', '.join(get_args(Activation))}."
            )


class Span(msgspec.Struct, frozen=True, tag_field="kind", tag="span"):
    """Where the answer to a question begins in a text: float [batch, sequence], a score for each token.

    The output ``end`` has the scores of where it ends. The answer is the span whose two scores add up to the most, over
    all windows of the text.

    - ``longest``: the most tokens of an answer.
    - ``best``: how many starts of a window are looked at, and how many ends: those that score highest.
    - ``no_answer``: whether the text may have none, as in SQuAD v2. It has none where the scores of the first token of
      a window, in the window where they are least, are higher than the best span's by more than ``threshold``.
    - ``mask``: the name of an input that is 0 at padding, as in :class:`Raw`.

    Raises InputError where a value is not usable.
    """

    end: str
    longest: int = 30
    best: int = 20
    no_answer: bool = False
    threshold: float = 0.0
    mask: str = ""

    def __post_init__(self) -> None:
        if not self.end:
            raise InputError("a span has no end", remedy="Name the output that scores where an answer ends.")
        for name in ("longest", "best"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"{name} is {value!r}", remedy="It is a whole number, 1 or more.")
        if type(self.threshold) not in (int, float) or not math.isfinite(self.threshold):
            raise InputError(f"threshold is {self.threshold!r}", remedy="Give a number, by which logits may differ.")


class TokenLabels(msgspec.Struct, frozen=True, tag_field="kind", tag="token-labels"):
    """The logits of a classifier of tokens, float [batch, sequence, classes], read as the best name of each token.

    For example a network that finds names of people gives ``B-PER`` for the token ``Ada``. Of a text each token comes
    with its place in it; those that the tokenizer puts around a text are left out. ``mask`` names the input that is 0
    at padding, as in :class:`Raw`.

    Raises InputError where a name is missing.
    """

    names: tuple[str, ...]
    mask: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "names", _checked(self.names))


class Raw(msgspec.Struct, frozen=True, tag_field="kind", tag="raw"):
    """The array as the model gives it.

    ``groups`` counts the columns that share a unit, group after group. For example ``Raw(groups=(4, 1, 80))`` says of
    an output [batch, 85] that it has boxes, then one score, then 80 probabilities. Columns lie along the last dimension
    that has as many: of [batch, 85, 8400] along the second. Answers are compared group by group, each as a share of its
    own largest magnitude. Where nothing is declared, groups are found from PyTorch's answers; ``Raw(groups=(85,))``
    says that there is one.

    ``mask`` names an input that says which answers matter: of ``Raw(mask="attention_mask")`` for an output [batch,
    sequence, width] those where the mask [batch, sequence] is not 0. What is computed at padding is not compared.

    Raises InputError where a group has no column.
    """

    groups: tuple[int, ...] = ()
    mask: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "groups", tuple(self.groups))
        if not all(type(count) is int and count >= 1 for count in self.groups):
            raise InputError(
                f"groups is {self.groups}", remedy="Give the number of columns of each group, each 1 or more."
            )


class Boxes(msgspec.Struct, frozen=True, tag_field="kind", tag="boxes"):
    """The candidates of a detector, of which a caller gets those that stand out, in pixels of the picture as given.

    With ``objectness`` the output is float [batch, boxes, 5 + classes], as YOLOv5's: for each box its centre x and y,
    its width and height, in pixels of the network's input, whether there is an object, and a score for each class, all
    0 to 1. Without it is float [batch, 4 + classes, boxes], as YOLOv8's.

    - ``names``: those of the classes.
    - ``confidence``: the least score, objectness times class, of a box that is given.
    - ``overlap``: of two boxes of a class whose intersection over union is more, the one with the higher score stays.
    - ``most``: the most boxes of a picture.
    - ``agnostic``: boxes of different classes are compared too.

    Raises InputError where a value is not usable.
    """

    names: tuple[str, ...]
    objectness: bool
    confidence: float = 0.25
    overlap: float = 0.45
    most: int = 300
    agnostic: bool = False

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "names", _checked(self.names))
        for what, value in (("confidence", self.confidence), ("overlap", self.overlap)):
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InputError(f"{what} is {value!r}", remedy="Give a share from 0 to 1.")
        if type(self.most) is not int or self.most < 1:
            raise InputError(f"most is {self.most!r}", remedy="Ask for 1 box or more.")

    @property
    def groups(self) -> tuple[int, ...]:
        """The columns that share a unit: four in pixels, and the scores."""
        return (4, self.columns - 4)

    @property
    def columns(self) -> int:
        """The columns of a box."""
        return 4 + self.objectness + len(self.names)


class Picture(msgspec.Struct, frozen=True, tag_field="kind", tag="picture"):
    """Pictures, float [batch, 3, height, width], which become uint8 [height, width, 3] in R, G, B: rounded and clipped.

    For example ``Picture(factor="factor", margin=9)`` is the output of a network that enlarges a picture as many times
    as its input ``factor`` says.

    - ``scale``: ``unit`` where 1 is the brightest, ``byte`` where 255 is.
    - ``channels``: the order in which the model gives them.
    - ``factor``: the input, a number, that says how many times larger than the input picture the output is. Empty for a
      network that enlarges all pictures alike.
    - ``margin``: how many pixels of the input picture around a place its answer depends on, at any factor: large
      pictures are run in tiles that overlap by as much. None where it is not known: then nothing is cut into tiles.

    Raises InputError where a value is not usable.
    """

    scale: Scale = "unit"
    channels: Channels = "rgb"
    factor: str = ""
    margin: int | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (("scale", self.scale, Scale), ("channels", self.channels, Channels)):
            if value not in get_args(choices):
                raise InputError(f"{name} {value!r} is unknown", remedy=f"Use one of {', '.join(get_args(choices))}.")
        if self.margin is not None and (type(self.margin) is not int or self.margin < 0):
            raise InputError(f"margin is {self.margin!r}", remedy="Give whole pixels, 0 or more, or None.")


Answer = Embedding | Labels | TokenLabels | Span | Boxes | Picture | Raw


def _checked(names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes. Raises InputError where there is none, or where one is no string."""
    if not names:
        raise InputError("there are no label names", remedy="Give a name for each class of the model.")
    other = next((name for name in names if not isinstance(name, str)), None)
    if other is not None:
        raise InputError(
            f"the label name {other!r} is {type(other).__name__}, not str",
            remedy="Write each name as a string, for example map(str, range(10)).",
        )
    return tuple(names)
