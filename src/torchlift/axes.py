"""Axes: dimensions that may vary within a range, and the ranges that an engine is tuned for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torchlift.errors import SignatureError

Corner = Literal["min", "opt", "max"]
"""Where in the ranges of its axes an input is: all axes at their minimum, optimum or maximum."""

CORNERS: tuple[Corner, ...] = ("min", "opt", "max")

LARGEST = 2**31 - 1
"""The most elements of a tensor, and so the largest size of a dimension. Many kernels count elements in 32 bits."""

BATCH = "batch"
"""The name of the axis along which independent samples are stacked."""

_DIGITS = r"\d{1,19}"
"""A number in a text. More than 19 digits are no size, and Python refuses to read very long numbers."""


@dataclass(frozen=True)
class Axis:
    """A dimension that may vary, for example ``Axis("batch", 1, 8, 64)``.

    Its size is from ``min`` to ``max``, both included. ``opt`` is the size that engines are tuned for. An axis with a
    ``step`` has only sizes that are multiples of it: ``Axis("height", 64, 224, 512, step=32)``.
    """

    name: str
    min: int
    opt: int
    max: int
    step: int = 1

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SignatureError(f"axis name {self.name!r} is not an identifier", remedy="Use a name such as batch.")
        sizes = (self.min, self.opt, self.max)
        if not all(map(is_size, sizes)) or not self.min <= self.opt <= self.max:
            raise SignatureError(
                f"axis {self.name}: {'..'.join(map(shown, sizes))} is not a range",
                remedy=f"A range is min..opt..max with 1 <= min <= opt <= max <= {LARGEST}, for example 1..8..64.",
            )
        if not is_size(self.step) or any(size % self.step for size in sizes):
            raise SignatureError(
                f"axis {self.name}: {self} are not all multiples of {shown(self.step)}",
                remedy="Where an axis has a step, its least, its optimal and its greatest size are multiples of it.",
            )

    @classmethod
    def parse(cls, name: str, text: str) -> Axis:
        """Read ``min..opt..max``, for example ``1..8..64``, or with a step ``64..224..512/32``. One number stands for
        all three.
        """
        match = re.fullmatch(rf"({_DIGITS})(?:\.\.({_DIGITS})\.\.({_DIGITS}))?(?:/({_DIGITS}))?", text.strip())
        if not match:
            raise SignatureError(
                f"axis {name}: {shown(text)} is not a range",
                remedy=f"Write min..opt..max, at most {LARGEST}, for example 1..8..64.",
            )
        low, opt, high, step = match.groups()
        return cls(name, int(low), int(opt or low), int(high or low), int(step or 1))

    def __str__(self) -> str:
        return f"{self.min}..{self.opt}..{self.max}" + (f"/{self.step}" if self.step > 1 else "")

    def has(self, size: int) -> bool:
        """Whether the axis can have this size."""
        return self.min <= size <= self.max and size % self.step == 0

    def sizes_between(self, low: int, high: int) -> range:
        """The sizes that the axis can have, from ``low`` to ``high``, both included."""
        first = -(-max(low, self.min) // self.step) * self.step
        return range(first, min(high, self.max) + 1, self.step)

    def within(self, low: int, opt: int, high: int) -> Axis:
        """The axis with a narrower range. Raises SignatureError for one that is not within the axis' own."""
        part = Axis(self.name, low, opt, high, self.step)
        if not self.min <= low <= high <= self.max:
            raise SignatureError(
                f"the profile {self.name}={low}:{opt}:{high} is outside {self.min}..{self.max}",
                remedy=f"Choose a range within it, or export again with `axes={self.name}={min(low, self.min)}.."
                f"{self.opt}..{max(high, self.max)}`.",
                axis=self.name,
            )
        return part

    def at(self, corner: Corner) -> int:
        """The size at a corner of the range."""
        return {"min": self.min, "opt": self.opt, "max": self.max}[corner]


@dataclass(frozen=True)
class Profile:
    """The ranges of axes that an engine is tuned for, for example ``batch=1:1:4,text.sequence=4:16:52``.

    A key is ``axis`` or ``component.axis``. An axis without a range here has the range of the signature.
    """

    ranges: Mapping[str, tuple[int, int, int]]

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Read ``AXIS=MIN:OPT:MAX``. Several are separated by commas. One number stands for all three."""
        ranges: dict[str, tuple[int, int, int]] = {}
        for part in text.split(","):
            match = re.fullmatch(rf"\s*([\w.]+)=({_DIGITS})(?::({_DIGITS}):({_DIGITS}))?\s*", part)
            if not match or match[1] in ranges:
                raise SignatureError(
                    f"{shown(text)} is not a profile",
                    remedy="Write AXIS=MIN:OPT:MAX, for example batch=1:1:4,sequence=4:16:52.",
                )
            low, opt, high = (int(n or match[2]) for n in match.groups()[1:])
            Axis(match[1].rpartition(".")[2], low, opt, high)
            ranges[match[1]] = (low, opt, high)
        return cls(ranges)

    def __str__(self) -> str:
        """The text that :meth:`parse` reads."""
        return ",".join(f"{name}={low}:{opt}:{high}" for name, (low, opt, high) in self.ranges.items())

    def of(self, component: str, axes: Sequence[Axis]) -> tuple[Axis, ...] | None:
        """The axes of a component with the ranges of this profile. None where the profile names none of them.

        ``component.axis`` counts before ``axis``. Raises SignatureError for a range that is not within the axis' own.
        """
        given = {
            axis.name: self.ranges[key]
            for axis in axes
            for key in (axis.name, f"{component}.{axis.name}")
            if key in self.ranges
        }
        return tuple(axis.within(*given[axis.name]) if axis.name in given else axis for axis in axes) if given else None


def is_size(value: object) -> bool:
    """Whether a value is a whole number that a dimension can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def shown(value: object) -> str:
    """A value as one line of text for a message. Long texts are cut. Python refuses to write numbers of more than 4,300
    digits.
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:97]}..."
