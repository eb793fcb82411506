"""What a component gives, output by output: an embedding, labels, or an array as it is. Plain data, in a manifest."""

from __future__ import annotations

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


Answer = Embedding | Labels | Raw | Picture
