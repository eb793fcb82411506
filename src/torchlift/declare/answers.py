"""What a component gives, output by output: an embedding, labels, or an array as it is. Plain data, in a manifest."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

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
        msgspec.structs.force_setattr(self, "names", tuple(self.names))
        if not self.names:
            raise InputError("there are no label names", remedy="Give a name for each class of the model.")
        other = next((name for name in self.names if not isinstance(name, str)), None)
        if other is not None:
            raise InputError(
                f"the label name {other!r} is {type(other).__name__}, not str",
                remedy="Write each name as a string, for example map(str, range(10)).",
            )
        if self.top < 1:
            raise InputError(f"top is {self.top}", remedy="Ask for 1 label or more.")
        if self.activation not in get_args(Activation):
            raise InputError(
                f"activation {self.activation!r} is unknown", remedy=f"Use one of {', '.join(get_args(Activation))}."
            )


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
        msgspec.structs.force_setattr(self, "names", tuple(self.names))
        if not self.names or not all(isinstance(name, str) for name in self.names):
            raise InputError("boxes have no class names", remedy="Give a name, a string, for each class of the model.")
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


Answer = Embedding | Labels | Raw | Boxes
