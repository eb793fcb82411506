"""The pictures of a task of super-resolution: true ones, and the small ones that a model is to enlarge."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchlift.datasets import ImageData, PicturePairs
from torchlift.errors import DataError, InputError
from torchlift.machine import usable_cores
from torchlift.pipelines.columns import ArrayColumn, Column, ImageColumn, Prepared
from torchlift.pipelines.enlarging import Enlarger
from torchlift.pipelines.pictures import KeptPictures
from torchlift.processing.image import pixels_of
from torchlift.processing.resizing import imresize
from torchlift.progress import Progress
from torchlift.tasks.fidelity import WINDOW
from torchlift.tasks.samples import Asked

FACTORS = (2, 3, 4)
"""Where the data do not say the factor, pictures are shrunk by each of these that the model takes."""


@dataclass(frozen=True)
class Scene:
    """One picture: what tells it from others, the factors that it is enlarged by, and the size of the true one.
    ``small`` and ``true`` give pixels uint8 [H, W, 3], decoded anew where they were not kept.
    """

    identity: tuple[Any, ...]
    factors: tuple[int, ...]
    shape: tuple[int, int]
    small: Callable[[int], np.ndarray]
    true: Callable[[], np.ndarray]


def factors_of(enlarger: Enlarger) -> tuple[int, ...]:
    """Of 2, 3 and 4 those that a model takes; of one with a single whole factor that one."""
    if enlarger.factor is None:
        fixed = enlarger.checked(None)
        return (int(fixed),) if fixed == int(fixed) else ()
    low, high = enlarger.factor.whole_bounds or enlarger.factor.bounds or (1, 1)
    return tuple(factor for factor in FACTORS if low <= factor <= high)


def scenes_of(asked: Asked, enlarger: Enlarger, data: ImageData | PicturePairs, progress: Progress) -> list[Scene]:
    """Look at every picture, in threads; one that cannot be used is skipped. Raises DataError where none is left."""
    factors = factors_of(enlarger)
    if not factors:
        raise DataError(
            f"{data.name} cannot be enlarged: the model takes no factor of {', '.join(map(str, FACTORS))}",
            remedy="Export it again with bounds of the factor that hold one.",
        )
    look = _pair if isinstance(data, PicturePairs) else _shrunk

    def one(position: int) -> Scene | DataError | InputError:
        try:
            return look(asked.pictures, enlarger, data, position, factors)
        except (DataError, InputError) as error:
            return error

    scenes: list[Scene] = []
    with progress.stage("check images", len(data.images)) as stage, ThreadPoolExecutor(usable_cores()) as pool:
        for found in pool.map(one, range(len(data.images))):
            if isinstance(found, Scene):
                scenes.append(found)
            else:
                data.skips.add(found.message)
            stage.advance()
    if not scenes:
        raise DataError(f"none of {len(data.images):,} images can be used: {data.skips}", remedy="Repair the data set.")
    return scenes


def crops(enlarger: Enlarger, scenes: Sequence[Scene]) -> Prepared:
    """The middles of the small pictures, at most as large as the optimum of the axes, for calibration."""
    sizes = enlarger.component.signature.sizes("opt")
    factor = factors_of(enlarger)[len(factors_of(enlarger)) // 2]
    limits = [sizes[dim] if isinstance(dim, str) else dim for dim in enlarger.image.shape[2:]]

    def crop(shape: tuple[int, int]) -> tuple[slice, slice]:
        cuts = []
        for side, limit in zip(shape, limits, strict=True):
            taken = min(side, limit or side)
            start = (side - taken) // 2
            cuts.append(slice(start, start + taken))
        return cuts[0], cuts[1]

    smalls = [scene.factors[0] if len(scene.factors) == 1 else factor for scene in scenes]
    shapes = [(scene.shape[0] // times, scene.shape[1] // times) for scene, times in zip(scenes, smalls, strict=True)]
    cuts = [crop(shape) for shape in shapes]
    found = [(cut[0].stop - cut[0].start, cut[1].stop - cut[1].start) for cut in cuts]

    def pixels(row: int) -> np.ndarray:
        return scenes[row].small(smalls[row])[cuts[row]]

    columns: list[Column] = [ImageColumn(enlarger.image, enlarger.declared, pixels, len(found), found)]
    if enlarger.factor is not None:
        columns.append(ArrayColumn(enlarger.factor, np.array(factor, enlarger.factor.dtype)))
    return Prepared.of(columns)


def _shrunk(pictures: KeptPictures, enlarger: Enlarger, data: Any, position: int, factors: tuple[int, ...]) -> Scene:
    """A true picture, cut to a multiple of all factors, which is shrunk by each."""
    name, multiple = data.images.name(position), math.lcm(*factors)

    def decoded() -> np.ndarray:
        found = pixels_of(enlarger.declared, data.images.read(position), name=name)
        height, width = (side - side % multiple for side in found.shape[:2])
        return found[:height, :width]

    digest = hashlib.sha256(data.images.read(position))
    true = _kept(pictures, [digest.digest(), enlarger.declared, multiple], decoded)
    height, width = true().shape[:2]
    _require_large(name, (height, width), max(factors))

    def small(factor: int) -> np.ndarray:
        made = _kept(
            pictures,
            [digest.digest(), enlarger.declared, multiple, factor],
            lambda: imresize(true(), height // factor, width // factor),
        )
        return made()

    for factor in factors:
        enlarger.tile(height // factor, width // factor, factor)
    return Scene((data.images.ids[position], digest.hexdigest()), factors, (height, width), small, true)


def _pair(pictures: KeptPictures, enlarger: Enlarger, data: Any, position: int, factors: tuple[int, ...]) -> Scene:
    """A small picture, and the true one, cut to a multiple of the factor that their sizes tell."""
    name, digests = data.images.name(position), []
    found = []
    for images in (data.images, data.truth):
        digest = hashlib.sha256(images.read(position))
        digests.append(digest.hexdigest())

        def decoded(images: Any = images) -> np.ndarray:
            return pixels_of(enlarger.declared, images.read(position), name=images.name(position))

        found.append(_kept(pictures, [digest.digest(), enlarger.declared], decoded))
    (rows, columns), (height, width) = (one().shape[:2] for one in found)
    factor = round(height / rows)
    if factor < 1 or not (rows * factor <= height < (rows + 1) * factor and width // factor == columns):
        raise DataError(
            f"{name} is {columns} x {rows}, and the large one {width} x {height}, which is no whole factor",
            remedy="Shrink it by 2, 3 or 4.",
        )
    enlarger.checked(factor)
    enlarger.tile(rows, columns, factor)
    shape = (rows * factor, columns * factor)
    _require_large(name, shape, factor)
    return Scene(
        (data.images.ids[position], *digests),
        (factor,),
        shape,
        lambda _: found[0](),
        lambda: found[1]()[: shape[0], : shape[1]],
    )


def _kept(pictures: KeptPictures, key: list[Any], make: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    """Gives what ``make`` does, from what was kept where it was."""
    name = hashlib.sha256(repr(key).encode()).digest()

    def get() -> np.ndarray:
        there = pictures.get(name)
        if there is None:
            there = make()
            pictures.put(name, there)
        return there

    return get


def _require_large(name: str, shape: tuple[int, int], factor: int) -> None:
    if min(shape) < WINDOW + 2 * factor:
        raise DataError(
            f"{name} has {shape[1]} x {shape[0]} pixels that count, fewer than {WINDOW + 2 * factor} along a side",
            remedy="Leave it out.",
        )
