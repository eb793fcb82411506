"""What goes into a component and what comes out: names, dtypes, shapes, and the axes that may vary."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torchlift.errors import BatchTooLargeError, SignatureError

if TYPE_CHECKING:
    import numpy as np

Dim = int | str | None
"""A fixed size, the name of an axis, or None: a size that the model computes."""

Corner = Literal["min", "opt", "max"]
CORNERS: tuple[Corner, ...] = ("min", "opt", "max")

DTYPES = frozenset({"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"})

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
        if not 1 <= self.min <= self.opt <= self.max:
            raise SignatureError(
                f"axis {self.name}: {self.min}..{self.opt}..{self.max} is not a range",
                remedy="A range is min..opt..max with 1 <= min <= opt <= max, for example 1..8..64.",
            )

    @classmethod
    def parse(cls, name: str, text: str) -> Axis:
        """Read ``min..opt..max``, for example ``1..8..64``; one number fixes all three."""
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+)\.\.(\d+))?", text.strip())
        if not match:
            raise SignatureError(
                f"axis {name}: {text!r} is not a range", remedy="Write min..opt..max, for example 1..8..64."
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
            match = re.fullmatch(r"\s*([\w.]+)=(\d+)(?::(\d+):(\d+))?\s*", part)
            if not match or match[1] in ranges:
                raise SignatureError(
                    f"{text!r} is not a profile",
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

    ``bounds`` (low inclusive, high exclusive) limits the values that samples are drawn from.
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

    def check(self, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Return the size of each axis in ``feeds``, after checking names, dtypes, ranks, sizes and ranges.

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
            got = f"{array.dtype}{list(array.shape)}"
            if str(array.dtype) != spec.dtype:
                raise SignatureError(f"input {spec.name} is {got}", remedy=f"It must be {spec}.")
            self._check_shape(spec, array.shape, got, sizes)
        return sizes

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """As :meth:`check`, of shapes alone."""
        self._check_names(shapes)
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            self._check_shape(spec, shapes[spec.name], str(list(shapes[spec.name])), sizes)
        return sizes

    def _check_names(self, feeds: Mapping[str, object]) -> None:
        missing = [n for n in self.input_names if n not in feeds]
        extra = [n for n in feeds if n not in self.input_names]
        if missing or extra:
            what = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(extra)}"] * bool(extra)
            raise SignatureError(
                f"inputs do not fit: {'; '.join(what)}", remedy=f"The inputs are {', '.join(self.input_names)}."
            )

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...], got: str, sizes: dict[str, int]) -> None:
        if len(shape) != len(spec.shape):
            raise SignatureError(f"input {spec.name} is {got}", remedy=f"It must be {spec}.")
        for position, (dim, size) in enumerate(zip(spec.shape, shape, strict=True)):
            if isinstance(dim, int) and size != dim:
                raise SignatureError(
                    f"input {spec.name} is {got}", remedy=f"It must be {spec}: dimension {position} is {dim}."
                )
            if isinstance(dim, str):
                if sizes.setdefault(dim, size) != size:
                    raise SignatureError(
                        f"input {spec.name} is {got}: axis {dim} is {size} here and {sizes[dim]} in another input",
                        remedy=f"All inputs must agree on {dim}.",
                    )
                self._check_range(spec, got, self.axis(dim), size)

    @staticmethod
    def _check_range(spec: TensorSpec, got: str, axis: Axis, size: int) -> None:
        if axis.min <= size <= axis.max:
            return
        error = BatchTooLargeError if axis.name == BATCH and size > axis.max else SignatureError
        raise error(
            f"input {spec.name} is {got}: {axis.name} {size} is outside {axis.min}..{axis.max}",
            remedy=f"Split it, or export again with --axis {axis.name}={axis.min}..{axis.opt}..{max(size, axis.max)}.",
        )


def distinct_sizes(axes: Iterable[Axis]) -> dict[str, int]:
    """Axis name -> a size within its range: near the optimum, not 1 (which tracers treat as a constant), and no two
    axes the same, as far as the ranges allow.
    """
    axes = tuple(axes)
    candidates = {axis.name: _near_optimum(axis, len(axes)) for axis in axes}
    taken: dict[int, str] = {}

    def place(name: str, tried: set[int]) -> bool:
        """Give an axis a free size, else one whose owner can move: a bipartite matching by augmenting paths."""
        for size in sorted(candidates[name], key=taken.__contains__):
            if size not in tried:
                tried.add(size)
                if size not in taken or place(taken[size], tried):
                    taken[size] = name
                    return True
        return False

    for name in candidates:
        place(name, set())
    chosen = {name: size for size, name in taken.items()}
    return {name: chosen.get(name, sizes[0]) for name, sizes in candidates.items()}


def _near_optimum(axis: Axis, count: int) -> list[int]:
    """Up to ``count`` sizes of an axis other than 1, those near the optimum first; 1 where there is no other."""
    sizes = itertools.chain(range(axis.opt, axis.max + 1), range(axis.opt - 1, axis.min - 1, -1))
    return list(itertools.islice((n for n in sizes if n > 1), count)) or [1]
