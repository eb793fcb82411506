"""What goes into a component and what comes out: names, dtypes, shapes, and the axes that may vary."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torchlift.errors import BatchTooLargeError, SignatureError

if TYPE_CHECKING:
    import numpy as np

Dim = int | str | None
"""A fixed size, the name of an axis, or None: a size that the model computes."""

Corner = Literal["min", "opt", "max"]
CORNERS: tuple[Corner, ...] = ("min", "opt", "max")

DTYPES = {
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "bool": 1,
}
"""The name -> the bytes of an element."""

LARGEST = 2**31 - 1
"""The most elements of a tensor, and so the largest size of a dimension: many kernels count them in 32 bits."""

LARGEST_INPUT = 2**31
"""The most bytes, 2 GiB, of one input where its axes are at their optimum. Fewer rows than the minimum are filled up to
it, and more rows are cut into batches of the optimum: this bounds what one batch allocates, however many are given.
"""

BATCH = "batch"
"""The axis along which independent samples are stacked, by name."""


@dataclass(frozen=True)
class Axis:
    """A dimension that may vary, for example ``Axis("batch", 1, 8, 64)``.

    ``min`` and ``max`` bound it (inclusive), ``opt`` is the size that engines are tuned for.
    """

    name: str
    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise SignatureError(f"axis name {self.name!r} is not an identifier", remedy="Use a name such as batch.")
        sizes = (self.min, self.opt, self.max)
        if not all(map(_is_size, sizes)) or not self.min <= self.opt <= self.max:
            raise SignatureError(
                f"axis {self.name}: {'..'.join(map(_shown, sizes))} is not a range",
                remedy=f"A range is min..opt..max with 1 <= min <= opt <= max <= {LARGEST}, for example 1..8..64.",
            )

    @classmethod
    def parse(cls, name: str, text: str) -> Axis:
        """Read ``min..opt..max``, for example ``1..8..64``; one number fixes all three."""
        match = re.fullmatch(rf"({_DIGITS})(?:\.\.({_DIGITS})\.\.({_DIGITS}))?", text.strip())
        if not match:
            raise SignatureError(
                f"axis {name}: {_shown(text)} is not a range",
                remedy=f"Write min..opt..max, at most {LARGEST}, for example 1..8..64.",
            )
        low, opt, high = match.groups()
        return cls(name, int(low), int(opt or low), int(high or low))

    def __str__(self) -> str:
        return f"{self.min}..{self.opt}..{self.max}"

    def within(self, low: int, opt: int, high: int) -> Axis:
        """A part of the range; raises SignatureError where it is none."""
        part = Axis(self.name, low, opt, high)
        if not self.min <= low <= high <= self.max:
            raise SignatureError(
                f"the profile {self.name}={low}:{opt}:{high} is outside {self.min}..{self.max}",
                remedy=f"Choose a range within it, or export again with --axis {self.name}={min(low, self.min)}.."
                f"{self.opt}..{max(high, self.max)}.",
            )
        return part

    def at(self, corner: Corner) -> int:
        return {"min": self.min, "opt": self.opt, "max": self.max}[corner]


@dataclass(frozen=True)
class Profile:
    """The ranges of axes that an engine is optimised for, by ``axis`` or ``component.axis``; an axis that is not named
    has the range of the signature.
    """

    ranges: Mapping[str, tuple[int, int, int]]

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Read ``AXIS=MIN:OPT:MAX``, several parted by commas; one number fixes all three."""
        ranges: dict[str, tuple[int, int, int]] = {}
        for part in text.split(","):
            match = re.fullmatch(rf"\s*([\w.]+)=({_DIGITS})(?::({_DIGITS}):({_DIGITS}))?\s*", part)
            if not match or match[1] in ranges:
                raise SignatureError(
                    f"{_shown(text)} is not a profile",
                    remedy="Write AXIS=MIN:OPT:MAX, for example batch=1:1:4,sequence=4:16:52.",
                )
            low, opt, high = (int(n or match[2]) for n in match.groups()[1:])
            Axis(match[1].rpartition(".")[2], low, opt, high)
            ranges[match[1]] = (low, opt, high)
        return cls(ranges)

    def __str__(self) -> str:
        """As :meth:`parse` reads it."""
        return ",".join(f"{name}={low}:{opt}:{high}" for name, (low, opt, high) in self.ranges.items())

    def of(self, component: str, signature: Signature) -> tuple[Axis, ...] | None:
        """The signature's axes with the profile's ranges, where both are given those of the component's own; None where
        it names no axis of the component.

        Raises SignatureError for a range beyond the signature's.
        """
        given = {
            axis.name: self.ranges[key]
            for axis in signature.axes
            for key in (axis.name, f"{component}.{axis.name}")
            if key in self.ranges
        }
        return (
            tuple(axis.within(*given[axis.name]) if axis.name in given else axis for axis in signature.axes)
            if given
            else None
        )


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: ``shape`` holds fixed sizes, axis names, and None where the model computes the size.

    ``bounds`` (low inclusive, high exclusive) limits the values that samples are drawn from. An integer input takes no
    others: ids from 0 to 99 have the bounds (0, 100), padding among them. A floating-point input may go beyond.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SignatureError(
                f"tensor {self.name}: dtype {self.dtype!r} is not supported",
                remedy=f"Use one of {', '.join(sorted(DTYPES))}.",
            )
        if self.bounds is not None and not -math.inf < self.bounds[0] < self.bounds[1] < math.inf:
            raise SignatureError(
                f"tensor {self.name}: bounds {tuple(self.bounds)} hold no value",
                remedy="Bounds are (low, high), finite, low inclusive and less than high, for example (0, 100).",
            )
        for position, dim in enumerate(self.shape):
            if not (dim is None or isinstance(dim, str) or _is_size(dim)):
                raise SignatureError(
                    f"tensor {self.name}: dimension {position} is {_shown(dim)}",
                    remedy=f"A dimension is a size from 1 to {LARGEST}, the name of an axis, or None where the model "
                    "computes it.",
                )

    @property
    def batch_position(self) -> int | None:
        """Which dimension is the batch axis; None where there is none."""
        return self.shape.index(BATCH) if BATCH in self.shape else None

    def shape_at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape for given axis sizes; raises SignatureError where a size is computed by the model."""
        if None in self.shape:
            raise SignatureError(
                f"tensor {self.name}: shape {self} is computed by the model",
                remedy="Run the model to learn it: only shapes of numbers and axes follow from the axes' sizes.",
            )
        return tuple(sizes[d] if isinstance(d, str) else int(d) for d in self.shape if d is not None)

    @property
    def whole_bounds(self) -> tuple[int, int] | None:
        """The least and the greatest integer within the bounds of an integer tensor; None where it states none."""
        if self.bounds is None or "int" not in self.dtype:
            return None
        low, high = self.bounds
        return math.ceil(low), math.ceil(high) - 1

    def fits(self, array: np.ndarray, sizes: Mapping[str, int]) -> bool:
        """Whether an array has the dtype, the rank, the fixed sizes and, of the axes in ``sizes``, those sizes."""
        if str(array.dtype) != self.dtype or array.ndim != len(self.shape):
            return False
        dims = [sizes.get(dim) if isinstance(dim, str) else dim for dim in self.shape]
        return all(dim in (None, size) for dim, size in zip(dims, array.shape, strict=True))

    def elements_at(self, sizes: Mapping[str, int]) -> int:
        """How many elements it has for given axis sizes, those that the model computes left out."""
        return math.prod(sizes[d] if isinstance(d, str) else d for d in self.shape if d is not None)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of one component, and the axes that their shapes share."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        if not self.inputs:
            raise SignatureError(
                "a signature needs at least one input", remedy="Declare what the network takes, as TensorSpec."
            )
        names = [s.name for s in (*self.inputs, *self.outputs)]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise SignatureError(f"tensor names appear twice: {', '.join(twice)}", remedy="Rename one of them.")
        axes = [a.name for a in self.axes]
        known = {*axes}
        if len(known) < len(axes):
            twice = sorted({n for n in axes if axes.count(n) > 1})
            raise SignatureError(f"axis names appear twice: {', '.join(twice)}", remedy="State one range for each.")
        for spec in (*self.inputs, *self.outputs):
            for dim in spec.shape:
                if isinstance(dim, str) and dim not in known:
                    raise SignatureError(
                        f"tensor {spec.name}: axis {dim!r} has no range",
                        remedy=f"State its range; the known axes are {', '.join(sorted(known)) or 'none'}.",
                    )
        self._check_extent()

    def _check_extent(self) -> None:
        """Refuse what nobody can allocate, before somebody does."""
        most, usual = self.sizes("max"), self.sizes("opt")
        for spec in (*self.inputs, *self.outputs):
            if (count := spec.elements_at(most)) > LARGEST:
                raise SignatureError(
                    f"tensor {spec.name}: {spec} has {_shown(count)} elements where its axes are at their maximum",
                    remedy=f"At most {LARGEST} are possible: lower the maximum of an axis, or a fixed size.",
                )
        for spec in self.inputs:
            if (size := spec.elements_at(usual) * DTYPES[spec.dtype]) > LARGEST_INPUT:
                raise SignatureError(
                    f"input {spec.name}: {spec} takes {size / 2**30:,.1f} GiB where its axes are at their optimum",
                    remedy=f"At most {LARGEST_INPUT / 2**30:.0f} GiB are possible: lower the optimum of an axis, or a "
                    "fixed size.",
                )

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.outputs)

    @property
    def computes_sizes(self) -> bool:
        """Whether the size of an output is known only once the model has run: no CUDA graph can be of such a run."""
        return any(None in s.shape for s in self.outputs)

    @property
    def batch(self) -> Axis | None:
        """The batch axis, or None where the component has none."""
        return next((a for a in self.axes if a.name == BATCH), None)

    def axis(self, name: str) -> Axis:
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise SignatureError(
            f"there is no axis {name!r}", remedy=f"The axes are {', '.join(a.name for a in self.axes) or 'none'}."
        )

    def sizes(self, corner: Corner, **override: int) -> dict[str, int]:
        """Axis name -> size at a corner of the ranges; ``override`` replaces single sizes."""
        for name in override:
            self.axis(name)
        return {a.name: override.get(a.name, a.at(corner)) for a in self.axes}

    def check(self, feeds: Mapping[str, Any]) -> dict[str, int]:
        """Return the size of each axis in ``feeds``, arrays by input name, after checking names, dtypes, ranks, sizes
        and ranges, and that integers are within their bounds. The values of arrays on a device are not looked at: that
        would wait for it.

        Raises SignatureError that names the input, what it is and what it must be; BatchTooLargeError where only
        the batch is over its maximum.
        """
        self._check_names(feeds)
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            array = feeds[spec.name]
            if not hasattr(array, "dtype"):
                raise SignatureError(
                    f"input {spec.name} is a {type(array).__name__}", remedy=f"It must be a numpy array, {spec}."
                )
            dtype = str(array.dtype)
            if dtype != spec.dtype:
                raise SignatureError(f"input {spec.name} is {dtype}{list(array.shape)}", remedy=f"It must be {spec}.")
            self._check_shape(spec, array.shape, dtype, sizes)
            if spec.bounds is not None:
                _check_values(spec, array)
        return sizes

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """As :meth:`check`, of shapes alone."""
        self._check_names(shapes)
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            self._check_shape(spec, shapes[spec.name], "", sizes)
        return sizes

    def _check_names(self, feeds: Mapping[str, object]) -> None:
        missing = [n for n in self.input_names if n not in feeds]
        extra = [n for n in feeds if n not in self.input_names]
        if missing or extra:
            what = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(extra)}"] * bool(extra)
            raise SignatureError(
                f"inputs do not fit: {'; '.join(what)}", remedy=f"The inputs are {', '.join(self.input_names)}."
            )

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...], dtype: str, sizes: dict[str, int]) -> None:
        """``dtype`` is for the message; empty where only the shape is known."""
        if len(shape) != len(spec.shape):
            raise SignatureError(f"input {spec.name} is {dtype}{list(shape)}", remedy=f"It must be {spec}.")
        for position, (dim, size) in enumerate(zip(spec.shape, shape, strict=True)):
            if isinstance(dim, int) and size != dim:
                raise SignatureError(
                    f"input {spec.name} is {dtype}{list(shape)}",
                    remedy=f"It must be {spec}: dimension {position} is {dim}.",
                )
            if isinstance(dim, str):
                if sizes.setdefault(dim, size) != size:
                    raise SignatureError(
                        f"input {spec.name} is {dtype}{list(shape)}: axis {dim} is {size} here and {sizes[dim]} in "
                        "another input",
                        remedy=f"All inputs must agree on {dim}.",
                    )
                axis = self.axis(dim)
                if not axis.min <= size <= axis.max:
                    error = BatchTooLargeError if dim == BATCH and size > axis.max else SignatureError
                    raise error(
                        f"input {spec.name} is {dtype}{list(shape)}: {dim} {size} is outside {axis.min}..{axis.max}",
                        remedy=f"Split it, or export again with --axis {dim}={axis.min}..{axis.opt}.."
                        f"{max(size, axis.max)}.",
                    )


def _check_values(spec: TensorSpec, array: np.ndarray) -> None:
    """Raise SignatureError that names the first integer of an array on the host that is outside its bounds."""
    import numpy as np

    bounds = spec.whole_bounds
    if bounds is None or not isinstance(array, (np.ndarray, np.generic)) or not array.size:
        return
    least, greatest = bounds
    if least <= array.min() and array.max() <= greatest:
        return
    outside = (array < least) | (array > greatest)
    position = [int(i) for i in np.unravel_index(np.argmax(outside), array.shape)]
    raise SignatureError(
        f"input {spec.name} is {array.dtype}{list(array.shape)} and holds {array[tuple(position)]} at {position}, "
        f"outside {least}..{greatest}",
        remedy=f"Give values from {least} to {greatest}, or export again with wider bounds of {spec.name}.",
    )


_DIGITS = r"\d{1,19}"
"""A number in a text. Longer ones are no size, and Python does not read all of them."""


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _shown(value: object) -> str:
    """A value for a message, cut where it is long. Python does not write numbers of more than 4,300 digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:97]}..."
