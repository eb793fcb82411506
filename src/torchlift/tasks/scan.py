"""One pass over a data set before it is scored: which samples can be used, and a fingerprint of them.

Every image is decoded as it will be for the model. What is found here is left out for whatever is scored, so that all
are scored on the same samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from torchlift.datasets import Images, Skips
from torchlift.errors import DataError, InputError
from torchlift.evidence import DataFacts
from torchlift.machine import usable_cores
from torchlift.pipelines import Pipeline
from torchlift.pipelines.batches import slices
from torchlift.pipelines.clip import IMAGE, TEXT, ClipPipeline
from torchlift.processing.image import ImageInput
from torchlift.progress import Progress
from torchlift.signature import Signature

Result = TypeVar("Result")

AT_ONCE = 2048
"""Images that are handed to the threads at once."""

BATCHES = 8
"""Batches whose encoded images are in memory at once."""


@dataclass(frozen=True)
class Scanned:
    """The images that can be used, their positions among all, and the SHA-256 of each one's bytes."""

    images: Images
    positions: list[int]
    digests: list[str]

    @property
    def identity(self) -> list[tuple[int | str, str]]:
        return [*zip(self.images.ids, self.digests, strict=True)]


def scan_images(images: Images, decode: ImageInput, skips: Skips, progress: Progress) -> Scanned:
    """Read, hash and decode every image, in threads; what fails is skipped. Raises DataError where none is left."""

    def look(position: int) -> str | DataError | InputError:
        try:
            data = images.read(position)
            decode(data, name=images.name(position))
        except (DataError, InputError) as error:
            return error
        return hashlib.sha256(data).hexdigest()

    digests: dict[int, str] = {}
    with progress.stage("check images", len(images)) as stage, ThreadPoolExecutor(usable_cores()) as pool:
        for part in slices(len(images), AT_ONCE):
            positions = range(part.start, part.stop)
            for position, found in zip(positions, pool.map(look, positions), strict=True):
                if isinstance(found, str):
                    digests[position] = found
                else:
                    skips.add(found.message)
                stage.advance()
    if not digests:
        raise DataError(f"none of {len(images):,} images can be used: {skips}", remedy="Repair the data set.")
    return Scanned(images.kept([*digests]), [*digests], [*digests.values()])


def usable_texts(texts: Sequence[str], names: Sequence[str], pipeline: ClipPipeline, skips: Skips) -> list[int]:
    """The positions of the texts that the pipeline takes; others are skipped."""
    usable = []
    for position, (text, name) in enumerate(zip(texts, names, strict=True)):
        try:
            pipeline.tokens([text])
            usable.append(position)
        except InputError as error:
            skips.add(error.message.replace("text 0", name, 1))
    return usable


def in_chunks(
    images: Images, run: Callable[[list[Any]], Result], signature: Signature, progress: Progress
) -> Iterator[Result]:
    """``run`` on all images in order, some batches at a time."""
    size = BATCHES * (signature.batch.opt if signature.batch else 1)
    with progress.stage("images", len(images)) as stage:
        for part in slices(len(images), size):
            chunk = [images.read(position) for position in range(part.start, part.stop)]
            yield run(chunk)
            stage.advance(len(chunk))


def clip_features(
    component: str, pipeline: Pipeline, images: Images, texts: Sequence[str], progress: Progress
) -> np.ndarray:
    """L2-normalised features float32 [N, E] of all images or of all texts, by the component."""
    assert isinstance(pipeline, ClipPipeline)
    if component == TEXT:
        with progress.stage("texts"):
            return pipeline.encode_text(texts)
    signature = pipeline.bundle.manifest.component(IMAGE).signature
    return np.concatenate([*in_chunks(images, pipeline.encode_image, signature, progress)])


def facts(name: str, kind: str, samples: dict[str, int], identity: Iterable[Any], skips: Skips) -> DataFacts:
    """What is known of a data set; ``identity`` is plain data that two data sets share only where they are the same."""
    digest = hashlib.sha256()
    for part in (kind, *identity):
        digest.update(json.dumps(part).encode() + b"\n")
    return DataFacts(name, kind, samples, digest.hexdigest(), skips.count, tuple(skips.named))


def normalized(text: str) -> str:
    """A text as Chinese-CLIP's evaluation, and only it, prepares it: lower case, and straight double quotes."""
    return text.lower().replace("“", '"').replace("”", '"')
