"""The signature of a component: the names, dtypes and shapes of its inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchlift.axes import BATCH, CORNERS, LARGEST, Axis, Corner, Profile, is_size, shown
from torchlift.dims import GRAMMAR, names_in, size_of
from torchlift.errors import BatchTooLargeError, SignatureError, some

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "BATCH",
    "CORNERS",
    "DTYPES",
    "LARGEST",
    "LARGEST_INPUT",
    "Axis",
    "Corner",
    "Dim",
    "Profile",
    "Signature",
    "TensorSpec",
]

Dim = int | str | None
"""A dimension: a fixed size, the name of an axis, or None for a size that depends on values. That of an output may also
be an expression of axes: ``height // 4`` (:mod:`torchlift.dims`).
"""

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
"""The name of a dtype -> the bytes of one element."""

LARGEST_INPUT = 2**31
"""The most bytes (2 GiB) of one input whose axes are at their optimum. A call with many rows is cut into batches of the
optimum, so this limits the memory of one batch, however many rows are given.
"""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. ``shape`` holds fixed sizes, names of axes, and None where the size depends on values, as
    that of ``x[x > 0]``. An output's size may be an expression of axes, such as ``height // 4``.

    ``bounds`` are (lowest value, first value above): ids from 0 to 99, padding included, have the bounds (0, 100).
    Samples are drawn within the bounds. An integer input takes no other values; a floating-point input does. ``strict``
    says otherwise: True refuses floats beyond the bounds too, False takes integers beyond them.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    bounds: tuple[float, float] | None = None
    strict: bool | None = None

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
            if not (dim is None or isinstance(dim, str) or is_size(dim)):
                raise SignatureError(
                    f"tensor {self.name}: dimension {position} is {shown(dim)}",
                    remedy=f"A dimension is a size from 1 to {LARGEST}, the name of an axis, or None where the model "
                    "computes it.",
                )

    @property
    def batch_position(self) -> int | None:
        """The position of the batch axis in the shape; None where there is none."""
        return self.shape.index(BATCH) if BATCH in self.shape else None

    def shape_at(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for given sizes of the axes. Raises SignatureError where the model computes a size."""
        if None in self.shape:
            raise SignatureError(
                f"tensor {self.name}: shape {self} is computed by the model",
                remedy="Run the model to learn it: only shapes of numbers and axes follow from the axes' sizes.",
            )
        return tuple(size_of(d, sizes) if isinstance(d, str) else int(d) for d in self.shape if d is not None)

    @property
    def whole_bounds(self) -> tuple[int, int] | None:
        """The smallest and the largest integer within the bounds. None for a tensor of floats, or without bounds."""
        if self.bounds is None or "int" not in self.dtype:
            return None
        low, high = self.bounds
        return math.ceil(low), math.ceil(high) - 1

    @property
    def held_to(self) -> tuple[float, float] | None:
        """The smallest and the largest value that is taken; None where any is. Floats may be as large as the upper
        bound itself.
        """
        if self.bounds is None or self.strict is False:
            return None
        return self.whole_bounds or (self.bounds if self.strict else None)

    def fits(self, array: np.ndarray, sizes: Mapping[str, int]) -> bool:
        """Whether an array has the dtype, the rank and the fixed sizes, and its axes have the sizes in ``sizes``."""
        if str(array.dtype) != self.dtype or array.ndim != len(self.shape):
            return False
        dims = [size_of(dim, sizes) if isinstance(dim, str) else dim for dim in self.shape]
        return all(dim in (None, size) for dim, size in zip(dims, array.shape, strict=True))

    def elements_at(self, sizes: Mapping[str, int]) -> int:
        """The number of elements for given sizes of the axes. A size that the model computes counts as 1."""
        return math.prod(size_of(d, sizes) if isinstance(d, str) else d for d in self.shape if d is not None)

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
            for dim in (dim for dim in spec.shape if isinstance(dim, str)):
                self._check_dim(spec, dim, known)
        self._check_extent()

    def _check_dim(self, spec: TensorSpec, dim: str, known: set[str]) -> None:
        """Raise SignatureError for an axis without a range, and for an expression where none may be."""
        if dim in known:
            return
        missing = [dim] if dim.isidentifier() else sorted(names_in(dim) - known)
        if missing:
            raise SignatureError(
                f"tensor {spec.name}: axis {shown(missing[0])} has no range",
                remedy=f"State its range; the known axes are {', '.join(sorted(known)) or 'none'}.",
            )
        if spec in self.inputs:
            raise SignatureError(
                f"input {spec.name}: the size {shown(dim)} is no axis",
                remedy="An input's size is a number or an axis. Declare the size as an axis of its own.",
            )
        for corner in CORNERS:
            if size_of(dim, self.sizes(corner)) < 0:
                raise SignatureError(
                    f"output {spec.name}: the size {shown(dim)} is negative where the axes are at their {corner}",
                    remedy=f"A size is 0 or more, at all sizes of the axes. It is written with {GRAMMAR}.",
                )

    def _check_extent(self) -> None:
        """Raise SignatureError for tensors that are too large to allocate."""
        most, usual = self.sizes("max"), self.sizes("opt")
        for spec in (*self.inputs, *self.outputs):
            if (count := spec.elements_at(most)) > LARGEST:
                raise SignatureError(
                    f"tensor {spec.name}: {spec} has {shown(count)} elements where its axes are at their maximum",
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
        """Whether the model computes the size of an output. Such a run cannot be recorded as a CUDA graph."""
        return any(None in s.shape for s in self.outputs)

    @property
    def batch(self) -> Axis | None:
        """The batch axis, or None where the component has none."""
        return next((a for a in self.axes if a.name == BATCH), None)

    def axis(self, name: str) -> Axis:
        """The axis of that name. Raises SignatureError where there is none."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise SignatureError(
            f"there is no axis {name!r}", remedy=f"The axes are {', '.join(a.name for a in self.axes) or 'none'}."
        )

    def sizes(self, corner: Corner, **override: int) -> dict[str, int]:
        """Axis name -> its size at a corner of the ranges. ``override`` replaces the sizes of some axes."""
        for name in override:
            self.axis(name)
        return {a.name: override.get(a.name, a.at(corner)) for a in self.axes}

    def check(self, feeds: Mapping[str, Any]) -> dict[str, int]:
        """Check arrays (by input name) against the signature; returns the size of each axis.

        Names, dtypes, ranks, sizes and ranges must fit, and integers must be within their bounds, strict floats too.
        Values of arrays on a device are not checked, since that would wait for the device.

        Raises SignatureError, which names the input, what it is and what it must be. Raises BatchTooLargeError where a
        batch exceeds its maximum.
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
        """Check shapes (by input name) as :meth:`check` does; returns the size of each axis."""
        self._check_names(shapes)
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            self._check_shape(spec, shapes[spec.name], "", sizes)
        return sizes

    def _check_names(self, feeds: Mapping[str, object]) -> None:
        missing = [n for n in self.input_names if n not in feeds]
        extra = [n for n in feeds if n not in self.input_names]
        if missing or extra:
            unknown = some([str(name) for name in extra])
            what = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {unknown}"] * bool(extra)
            raise SignatureError(
                f"inputs do not fit: {'; '.join(what)}", remedy=f"The inputs are {', '.join(self.input_names)}."
            )

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...], dtype: str, sizes: dict[str, int]) -> None:
        """Check the shape of one input, and add the sizes of its axes to ``sizes``. ``dtype`` is for the message."""
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
                        axis=dim,
                    )
                axis = self.axis(dim)
                if axis.min <= size <= axis.max and size % axis.step:
                    raise SignatureError(
                        f"input {spec.name} is {dtype}{list(shape)}: {dim} {size} is not a multiple of {axis.step}",
                        remedy=f"Pad or resize it, for example to {-(-size // axis.step) * axis.step}.",
                        axis=dim,
                    )
                if not axis.has(size):
                    error = BatchTooLargeError if dim == BATCH and size > axis.max else SignatureError
                    raise error(
                        f"input {spec.name} is {dtype}{list(shape)}: {dim} {size} is outside {axis.min}..{axis.max}",
                        remedy=f"Split it, or export again with `axes={dim}={axis.min}..{axis.opt}.."
                        f"{max(size, axis.max)}`.",
                        axis=dim,
                    )


def _check_values(spec: TensorSpec, array: np.ndarray) -> None:
    """Raise SignatureError for a value outside of what is taken, which names the first one. Only for host arrays."""
    import numpy as np

    bounds = spec.held_to
    if bounds is None or not isinstance(array, (np.ndarray, np.generic)) or not array.size:
        return
    least, greatest = bounds
    if least <= array.min() and array.max() <= greatest:
        return
    outside = ~((array >= least) & (array <= greatest))
    position = [int(i) for i in np.unravel_index(np.argmax(outside), array.shape)]
    raise SignatureError(
        f"input {spec.name} is {array.dtype}{list(array.shape)} and holds {array[tuple(position)]} at {position}, "
        f"outside {least}..{greatest}",
        remedy=f"Give values from {least} to {greatest}, or export again with wider bounds of {spec.name}.",
    )
