"""One pass over a data set before anything is asked about it: which samples can be used, prepared, with a fingerprint.

Every picture is decoded here, once, as the model takes it. What cannot be is left out for whatever is scored, so that
all are scored on the same samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from torchlift.bundle import Bundle
from torchlift.datasets import ArrayData, Images, Skips, SquadData
from torchlift.datasets.base import spread
from torchlift.datasets.squad import Question
from torchlift.declare.inputs import ImageInput
from torchlift.errors import DataError, InputError, SignatureError
from torchlift.evidence import DataFacts
from torchlift.machine import usable_cores
from torchlift.manifest import Component, Manifest
from torchlift.pipelines.batches import slices
from torchlift.pipelines.columns import ArrayColumn, Prepared
from torchlift.pipelines.pictures import KeptPictures
from torchlift.pipelines.prepare import Preparer, preparers
from torchlift.pipelines.run import AnySize, Batching, Loader
from torchlift.processing.image import pixels_of
from torchlift.processing.tokens import TextOrPair
from torchlift.progress import Progress
from torchlift.signature import TensorSpec

if TYPE_CHECKING:
    from torchlift.tasks.base import Metric

AT_ONCE = 2048
"""Images that are handed to the threads at once."""


@dataclass(frozen=True)
class Asked:
    """The model that a task asks: its manifest, what prepares its inputs, and the pictures that were decoded so far;
    and the ``metrics`` that are asked for, of data that have none of their own.
    """

    manifest: Manifest
    preparers: Mapping[str, Preparer]
    pictures: KeptPictures = field(default_factory=KeptPictures)
    metrics: Sequence[Metric] = ()

    @classmethod
    def of(cls, bundle: Bundle, pictures: KeptPictures | None = None, metrics: Sequence[Metric] = ()) -> Asked:
        """Raises BundleError where an input cannot be prepared."""
        return cls(bundle.manifest, preparers(bundle), KeptPictures() if pictures is None else pictures, metrics)


@dataclass(frozen=True)
class Scanned:
    """The images that can be used, their positions among all, the SHA-256 of each one's bytes, and all prepared."""

    images: Images
    positions: list[int]
    digests: list[str]
    prepared: Prepared

    @property
    def identity(self) -> list[tuple[int | str, str]]:
        """What tells these images from others."""
        return [*zip(self.images.ids, self.digests, strict=True)]


@dataclass(frozen=True)
class ScannedArrays:
    """The rows that are used, int64 [rows], of ``count`` in all, those prepared, and plain data that tells the arrays
    from others. ``rows`` is empty and ``count`` None where no input has a batch axis.
    """

    rows: np.ndarray
    count: int | None
    prepared: Prepared
    identity: list[Any]


@dataclass(frozen=True)
class _Picture:
    """An image that was decoded: the SHA-256 of its bytes, the key that it is kept under, its (height, width)."""

    digest: str
    key: bytes
    shape: tuple[int, int]


def scan_images(asked: Asked, component: str, name: str, images: Images, skips: Skips, progress: Progress) -> Scanned:
    """Read, hash and decode every image for an input of a component, in threads; what fails is skipped.

    Raises DataError where none is left.
    """
    preparer = asked.preparers[component]
    declared = preparer.component.inputs[name]
    assert isinstance(declared, ImageInput)
    way = repr(declared).encode()

    def decoded(data: bytes, key: bytes, position: int) -> np.ndarray:
        pixels = asked.pictures.get(key)
        if pixels is None:
            pixels = pixels_of(declared, data, name=images.name(position))
            asked.pictures.put(key, pixels)
        return pixels

    def look(position: int) -> _Picture | DataError | InputError:
        try:
            data = images.read(position)
            digest = hashlib.sha256(data)
            key = hashlib.sha256(way + digest.digest()).digest()
            pixels = decoded(data, key, position)
            shape = (pixels.shape[0], pixels.shape[1])
            if declared.varies:
                column = preparer.images(name, lambda row: pixels, [shape])
                preparer.require_within(images.name(position), column.sizes(0))
        except (DataError, InputError) as error:
            return error
        return _Picture(digest.hexdigest(), key, shape)

    found: dict[int, _Picture] = {}
    with progress.stage("check images", len(images)) as stage, ThreadPoolExecutor(usable_cores()) as pool:
        for part in slices(len(images), AT_ONCE):
            positions = range(part.start, part.stop)
            for position, picture in zip(positions, pool.map(look, positions), strict=True):
                if isinstance(picture, _Picture):
                    found[position] = picture
                else:
                    skips.add(picture.message)
                stage.advance()
    if not found:
        raise DataError(f"none of {len(images):,} images can be used: {skips}", remedy="Repair the data set.")
    usable, pictures = [*found], [*found.values()]

    def pixels(row: int) -> np.ndarray:
        kept = asked.pictures.get(pictures[row].key)
        return pixels_of(declared, images.read(usable[row])) if kept is None else kept

    column = preparer.images(name, pixels, [picture.shape for picture in pictures])
    digests = [picture.digest for picture in pictures]
    return Scanned(images.kept(usable), usable, digests, Prepared.of([column]))


def scan_arrays(component: Component, data: ArrayData) -> ScannedArrays:
    """The arrays of a component's inputs, at most as many rows as the data's limit. What else the data have is left.

    Raises DataError where an array is missing, or does not fit its input.
    """
    signature = component.signature
    missing = [spec.name for spec in signature.inputs if spec.name not in data.arrays]
    if missing:
        raise DataError(
            f"{data.name} has no array {', '.join(missing)}; it has {', '.join(data.arrays)}",
            remedy=f"Write an array for each input: {', '.join(f'{spec.name} {spec}' for spec in signature.inputs)}.",
        )
    arrays = {spec: data.arrays[spec.name] for spec in signature.inputs}
    for spec, array in arrays.items():
        if array.ndim != len(spec.shape):
            raise DataError(
                f"{data.name}: {spec.name} is {array.dtype}{list(array.shape)}", remedy=f"It must be {spec}."
            )
    try:
        whole = Prepared.of(ArrayColumn(spec, array) for spec, array in arrays.items())
        rows = np.array([*spread(whole.count or 0, data.limit)], np.int64)
        chosen = Prepared.of(ArrayColumn(spec, _taken(spec, array, rows)) for spec, array in arrays.items())
        with Loader() as loader:
            runs = Batching(AnySize(), signature).runs(chosen)
            signature.check(next(iter(loader.feeds(chosen, runs[:1]))))
    except (SignatureError, InputError) as error:
        raise DataError(f"{data.name}: {error.message}", remedy=error.remedy) from error
    identity = [
        [spec.name, str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()]
        for spec, array in arrays.items()
    ]
    return ScannedArrays(rows, whole.count, chosen, identity)


def _taken(spec: TensorSpec, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    position = spec.batch_position
    return array if position is None or len(rows) == array.shape[position] else array.take(rows, position)


def usable_texts(
    preparer: Preparer, name: str, texts: Sequence[TextOrPair], names: Sequence[str], skips: Skips
) -> list[int]:
    """The positions of the texts that an input of a component takes; others are skipped."""
    usable = []
    for position, (text, said) in enumerate(zip(texts, names, strict=True)):
        try:
            preparer.tokens(name, [text])
            usable.append(position)
        except InputError as error:
            skips.add(error.message.replace("text 0", said, 1))
    return usable


def usable_questions(preparer: Preparer, data: SquadData) -> list[Question]:
    """The questions that a model takes with their contexts; others are skipped. Raises DataError where none is left."""
    (tokenizer,) = preparer.questions.values()
    usable, contexts = [], set[str]()
    for asked in data.questions:
        said = f"question {asked.id}"
        try:
            tokenizer.question(asked.question, said)
            if asked.context not in contexts:
                tokenizer.passage(asked.context, f"the context of {said}")
                contexts.add(asked.context)
            usable.append(asked)
        except InputError as error:
            data.skips.add(error.message)
    if not usable:
        raise DataError(f"no question of {data.name} can be asked: {data.skips}", remedy="Repair the data set.")
    return usable


def facts(name: str, kind: str, samples: dict[str, int], identity: Iterable[Any], skips: Skips) -> DataFacts:
    """What is known of a data set; ``identity`` is plain data that two data sets share only where they are the same."""
    digest = hashlib.sha256()
    for part in (kind, *identity):
        digest.update(json.dumps(part).encode() + b"\n")
    return DataFacts(name, kind, samples, digest.hexdigest(), skips.count, tuple(skips.named))


def normalized(text: str) -> str:
    """A text as the evaluation of Chinese-CLIP, and only it, prepares it: lower case, and straight double quotes."""
    return text.lower().replace("“", '"').replace("”", '"')
