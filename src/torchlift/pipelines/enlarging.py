"""Enlarges pictures by a component whose output is a Picture: whole, or in tiles that overlap, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from torchlift.backends import Session
from torchlift.declare.answers import Picture
from torchlift.declare.inputs import ImageInput
from torchlift.dims import size_of
from torchlift.errors import InputError, SignatureError
from torchlift.machine import this_machine
from torchlift.manifest import Component
from torchlift.pipelines.batches import batch_axis, by_count
from torchlift.processing.answers import pixels
from torchlift.processing.image import normalized
from torchlift.signature import BATCH, Axis, TensorSpec

BUDGET = 1 << 20
"""Pixels of enlarged tiles that are computed at once. A network that has 64 channels there needs 256 MiB for them."""


class Span(NamedTuple):
    """Along one side: where a tile starts, and from where to where its answer is taken, in pixels of the input."""

    start: int
    low: int
    high: int


@dataclass(frozen=True)
class Enlarger:
    """What enlarges pictures by a component: its input of pictures, its output, and its factor (None where fixed)."""

    component: Component
    image: TensorSpec
    declared: ImageInput
    output: TensorSpec
    picture: Picture
    factor: TensorSpec | None

    @classmethod
    def of(cls, component: Component) -> Enlarger:
        """Raises SignatureError for a component that takes anything but pictures of any size and a factor."""
        signature, images = component.signature, component.inputs_of(ImageInput)
        outputs = [(spec, a) for spec in signature.outputs if isinstance(a := component.answers[spec.name], Picture)]
        known = {*images, *(answer.factor for _, answer in outputs)}
        if len(images) != 1 or len(outputs) != 1 or {*signature.input_names} - known:
            raise SignatureError(
                f"{component.name} takes {', '.join(signature.input_names)} and gives "
                f"{', '.join(signature.output_names)}",
                remedy="To enlarge pictures, declare one ImageInput, one Picture, and no input but these and a factor.",
            )
        specs = {spec.name: spec for spec in signature.inputs}
        (image,), ((output, picture),) = images, outputs
        declared = component.inputs[image]
        assert isinstance(declared, ImageInput)
        if declared.size is not None or declared.stride is not None or BATCH not in specs[image].shape:
            raise SignatureError(
                f"input {image} resizes or fills up pictures",
                remedy="Declare ImageInput(size=None), with a batch axis.",
            )
        return cls(component, specs[image], declared, output, picture, specs.get(picture.factor))

    def checked(self, factor: float | None) -> float:
        """The factor that is asked for, or the only one. Raises InputError for one that the network does not take."""
        if self.factor is None:
            fixed = self._fixed()
            if factor is not None and factor != fixed:
                raise InputError(
                    f"the factor is {factor:g}, and this network enlarges {fixed:g} times", remedy="Leave it out."
                )
            return fixed
        low, high = self.factor.whole_bounds or self.factor.bounds or (1, 1)
        said = f"Give {'a whole number' if self.whole else 'a number'} from {low:g} to {high:g}."
        if factor is None:
            raise InputError("no factor is given", remedy=said)
        if isinstance(factor, bool) or not isinstance(factor, (int, float, np.integer, np.floating)):
            raise InputError(f"the factor is {factor!r}", remedy=said)
        if not low <= factor <= high or factor <= 0 or (self.whole and factor != int(factor)):
            raise InputError(f"the factor is {factor:g}", remedy=said)
        return int(factor) if factor == int(factor) else float(factor)

    @property
    def whole(self) -> bool:
        """Whether the factor is a whole number."""
        return self.factor is None or self.factor.dtype != "float32"

    def size(self, height: int, width: int, factor: float) -> tuple[int, int]:
        """The (height, width) of an enlarged picture."""
        return int(height * factor), int(width * factor)

    def require_memory(self, height: int, width: int, factor: float, what: str) -> None:
        """Raise InputError where the enlarged picture does not fit into half of this machine's memory."""
        rows, columns = self.size(height, width, factor)
        needed, there = 3 * rows * columns, this_machine().memory
        if there and needed > there // 2:
            raise InputError(
                f"{what} of {width} x {height} pixels, {factor:g} times larger, is {columns} x {rows}: "
                f"{needed:,} bytes, and this machine has {there:,}",
                remedy="Ask for a smaller factor, or enlarge the picture in parts.",
            )

    def enlarged(self, session: Session, source: np.ndarray, factor: float, budget: int = BUDGET) -> np.ndarray:
        """A picture uint8 [H, W, 3] as uint8 [factor * H, factor * W, 3]. Tiles give the same as the whole.

        Raises InputError for a picture that is too large for the network and cannot be cut into tiles.
        """
        height, width = source.shape[:2]
        tile = self.tile(height, width, factor, budget)
        margin = self.picture.margin or 0
        rows, columns = (spans(n, t, margin) for n, t in zip((height, width), tile, strict=True))
        places = [(row, column) for row in rows for column in columns]
        whole = np.empty((*self.size(height, width, factor), 3), np.uint8)
        for part in self._batches(session, len(places), tile, factor, budget):
            chosen = places[part.rows]
            tiles = np.empty((part.size, 3, *tile), np.float32)
            for into, (row, column) in enumerate(chosen):
                cut = source[row.start : row.start + tile[0], column.start : column.start + tile[1]]
                normalized(self.declared, cut, out=tiles[into])
            tiles[len(chosen) :] = tiles[len(chosen) - 1]
            answers = session.run(self.feeds(tiles, factor))[self.output.name]
            for (row, column), answer in zip(chosen, answers, strict=False):
                if len(places) == 1:
                    whole = pixels(self.picture, answer)
                    continue
                times = int(factor)
                inner = (
                    slice((row.low - row.start) * times, (row.high - row.start) * times),
                    slice((column.low - column.start) * times, (column.high - column.start) * times),
                )
                outer = whole[row.low * times : row.high * times, column.low * times : column.high * times]
                outer[:] = pixels(self.picture, answer[:, inner[0], inner[1]])
        return whole

    def feeds(self, tiles: np.ndarray, factor: float) -> dict[str, np.ndarray]:
        """What a session takes for a batch of tiles, float32 [batch, 3, height, width]."""
        feeds = {self.image.name: tiles}
        if self.factor is not None:
            feeds[self.factor.name] = np.array(factor, self.factor.dtype)
        return feeds

    def tile(self, height: int, width: int, factor: float, budget: int = BUDGET) -> tuple[int, int]:
        """The (height, width) of the tiles of a picture: the picture's where it is small enough.

        Raises InputError for a picture that would need tiles that cannot be made.
        """
        usual = max(int(budget**0.5 / factor), 1)
        margin, sides = self.picture.margin, []
        cuts = margin is not None and factor == int(factor)
        for dim, size in zip(self.image.shape[2:], (height, width), strict=True):
            axis = self._axis(dim, size)
            least = axis.min if margin is None else max(4 * margin + 1, axis.min)
            side = min(max(usual, least), axis.max) if cuts else axis.max
            side -= side % axis.step
            if size > side and (not cuts or margin is None or side <= 2 * margin):
                why = "its margin is not known" if margin is None else f"{factor:g} is no whole number"
                raise InputError(
                    f"the picture has {width} x {height} pixels, the network takes {axis.max} along {axis.name}, and "
                    + (f"tiles are not possible, since {why}" if not cuts else "tiles would be all margin"),
                    remedy=f"Give a smaller picture, or export again with a wider range of {axis.name}.",
                )
            if size < axis.min or (size <= side and size % axis.step):
                raise InputError(
                    f"the picture has {width} x {height} pixels, and {axis.name} is {axis.min} or more"
                    + (f", a multiple of {axis.step}" if axis.step > 1 else ""),
                    remedy="Enlarge or pad it first.",
                )
            sides.append(min(size, side))
        return sides[0], sides[1]

    def _axis(self, dim: int | str | None, size: int) -> Axis:
        if isinstance(dim, str):
            return self.component.signature.axis(dim)
        return Axis("size", dim or size, dim or size, dim or size)

    def _batches(self, session: Session, count: int, tile: tuple[int, int], factor: float, budget: int):  # type: ignore[no-untyped-def]
        axis = batch_axis(self.component.signature)
        fits = int(budget // (tile[0] * tile[1] * factor * factor))
        most = min(max(fits, axis.min), axis.max)
        names = zip(self.image.shape[2:], tile, strict=True)
        others = {dim: size for dim, size in names if isinstance(dim, str)}
        return by_count(session, axis, most, count, others)

    def _fixed(self) -> float:
        """The factor of a network without one, from the sizes of its output."""
        sizes = self.component.signature.sizes("opt")
        dims = (self.output.shape[3], self.image.shape[3])
        if None in dims:
            raise SignatureError(
                f"output {self.output.name} is {self.output}: how much larger it is cannot be told",
                remedy="Name the input that says so: Picture(factor=...).",
            )
        large, small = (size_of(str(dim), sizes) for dim in dims)
        factor = Fraction(large, small)
        return int(factor) if factor.denominator == 1 else float(factor)


def spans(size: int, tile: int, margin: int) -> list[Span]:
    """The tiles along a side of ``size`` pixels, all ``tile`` long. What is taken of one lies ``margin`` pixels or more
    within it, but at the picture's own border. ``tile`` is more than twice the margin where there are several.
    """
    if size <= tile:
        return [Span(0, 0, size)]
    step = tile - 2 * margin
    starts = [min(start, size - tile) for start in range(0, size - tile + step, step)]
    cuts = [0, *(start + margin for start in starts[1:]), size]
    return [Span(start, low, high) for start, low, high in zip(starts, cuts, cuts[1:], strict=False)]
