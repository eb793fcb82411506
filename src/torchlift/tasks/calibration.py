"""Samples of any data set, labelled or not, prepared for the components that take them, as calibration needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchlift.bundle import Bundle
from torchlift.datasets import (
    ArrayData,
    Data,
    ImageData,
    PicturePairs,
    ReadOptions,
    RetrievalData,
    SampleData,
    Source,
    SquadData,
    ZeroShotData,
    open_data,
)
from torchlift.declare.answers import Picture
from torchlift.declare.inputs import ImageInput, QuestionInput, TextInput
from torchlift.errors import DataError
from torchlift.manifest import Manifest
from torchlift.pipelines.columns import Prepared
from torchlift.pipelines.enlarging import Enlarger
from torchlift.pipelines.pictures import KeptPictures
from torchlift.pipelines.run import AnySize, Batching, Loader
from torchlift.progress import SILENT, Progress
from torchlift.tasks.enlarged import crops, scenes_of
from torchlift.tasks.rows import taken
from torchlift.tasks.samples import Asked, facts, normalized, scan_arrays, scan_images, usable_questions, usable_texts


@dataclass(frozen=True)
class Part:
    """The samples of one component, what they are, and what identifies them."""

    prepared: Prepared
    what: str
    identity: Any

    @property
    def count(self) -> int:
        return self.prepared.samples


@dataclass(frozen=True)
class CalibrationSamples:
    """Samples for the components that take them. ``name`` is the data set's, ``said`` names the samples in words,
    ``fingerprint`` is a SHA-256 over them.
    """

    manifest: Manifest
    name: str
    said: str
    fingerprint: str
    parts: Mapping[str, Part]

    def count(self, component: str) -> int:
        """How many samples a component has."""
        return self._part(component).count

    def feeds(self, component: str) -> Iterator[dict[str, np.ndarray]]:
        """The samples of a component as feeds, in batches of the signature's optimum. Raises DataError where the data
        have none for it.
        """
        part = self._part(component)
        signature = self.manifest.component(component).signature
        with Loader() as loader:
            yield from loader.feeds(part.prepared, Batching(AnySize(), signature).runs(part.prepared))

    def _part(self, component: str) -> Part:
        if component not in self.parts:
            signature = self.manifest.component(component).signature
            inputs = ", ".join(f"{spec.name} {spec}" for spec in signature.inputs)
            raise DataError(
                f"{self.said}: nothing there for the component {component}, which takes {inputs}",
                remedy="Give images or texts that the model takes, or a .npz with an array for each input, by name.",
            )
        return self.parts[component]


def calibration_samples(
    bundle: Bundle,
    source: Source,
    options: ReadOptions | None = None,
    progress: Progress = SILENT,
    pictures: KeptPictures | None = None,
) -> CalibrationSamples:
    """The samples of any data set, at a path or in memory, or of arrays by input name, for the components of a bundle.

    Of retrieval and zero-shot data come images and texts. What cannot be read is skipped, and that is noted. Raises
    DataError where the data cannot be read or do not fit the model.
    """
    data = open_data(source, options)
    asked = Asked.of(bundle, pictures)
    parts, skips = parts_of(asked, data, progress), data.skips
    if isinstance(data, SampleData):
        said = "the samples"
    elif isinstance(data, ArrayData):
        said = f"the array{'s' * (len(data.arrays) > 1)} {', '.join(data.arrays)}"
    else:
        said = " and ".join(f"{part.count:,} {part.what}" for part in parts.values()) or data.kind
    counts = {name: part.count for name, part in parts.items()}
    found = facts(data.name, data.kind, counts, [[name, part.identity] for name, part in parts.items()], skips)
    if skips.count:
        progress.note(f"{skips.count:,} records of {data.name} are skipped: {skips}")
    return CalibrationSamples(bundle.manifest, data.name, f"{said} of {data.name}", found.fingerprint, parts)


def parts_of(asked: Asked, data: Data, progress: Progress) -> dict[str, Part]:
    """The samples of a data set, labels aside, for every component that takes such.

    Raises DataError where they do not fit the model.
    """
    if isinstance(data, SampleData):
        return _of_items(asked, data)
    if isinstance(data, ArrayData):
        return _of_arrays(asked, data)
    if isinstance(data, SquadData):
        return _of_questions(asked, data)
    if isinstance(data, (ImageData, PicturePairs)) and (found := _of_scenes(asked, data, progress)):
        return found
    return {**_of_images(asked, data, progress), **_of_texts(asked, data)}


def _of_images(asked: Asked, data: Any, progress: Progress) -> dict[str, Part]:
    images = getattr(data, "images", None)
    if images is None:
        return {}
    parts = {}
    for component in asked.manifest.components:
        for name in component.inputs_of(ImageInput) if len(component.signature.inputs) == 1 else ():
            scanned = scan_images(asked, component.name, name, images, data.skips, progress)
            parts[component.name] = Part(scanned.prepared, "images", scanned.identity)
    return parts


def _of_scenes(asked: Asked, data: ImageData | PicturePairs, progress: Progress) -> dict[str, Part]:
    """Small pictures for the components that enlarge them."""
    parts = {}
    for component in asked.manifest.components:
        if any(isinstance(answer, Picture) for answer in component.answers.values()):
            enlarger = Enlarger.of(component)
            scenes = scenes_of(asked, enlarger, data, progress)
            identity = [[*scene.identity, *scene.factors] for scene in scenes]
            parts[component.name] = Part(crops(enlarger, scenes), "images", identity)
    return parts


def _of_texts(asked: Asked, data: Any) -> dict[str, Part]:
    texts = getattr(data, "texts", ())
    parts = {}
    taking = [(c, name) for c in asked.manifest.components for name in c.inputs_of(TextInput)]
    for component, name in taking if texts else []:
        preparer = asked.preparers[component.name]
        of_clip = isinstance(data, (RetrievalData, ZeroShotData))
        said = [normalized(getattr(text, "text", text)) if of_clip else text for text in texts]
        kept = [said[i] for i in usable_texts(preparer, name, said, [f"text {t[:20]!r}" for t in said], data.skips)]
        if not kept:
            raise DataError(f"no text of {data.name} can be used: {data.skips}", remedy="Give texts that can be read.")
        parts[component.name] = Part(preparer.prepare({name: kept}), "texts", kept)
    return parts


def _of_questions(asked: Asked, data: SquadData) -> dict[str, Part]:
    """The windows of all contexts, each with its question, for every component that takes questions."""
    parts = {}
    for component in asked.manifest.components:
        if component.inputs_of(QuestionInput):
            preparer = asked.preparers[component.name]
            pairs = [(question.question, question.context) for question in usable_questions(preparer, data)]
            parts[component.name] = Part(preparer.prepared(preparer.windows(pairs)), "windows", pairs)
    return parts


def _of_items(asked: Asked, data: SampleData) -> dict[str, Part]:
    """The inputs of items for the only component. Raises DataError where there are several, or items do not fit."""
    if len(asked.manifest.components) != 1:
        raise DataError(
            f"{data.name} cannot be told apart by component: the model has {len(asked.manifest.components)}",
            remedy="Give the path of a data set, for example a .npz with an array for each input, by name.",
        )
    (component,) = asked.manifest.components
    found = taken(component, asked.preparers[component.name], data)
    return {component.name: Part(found.prepared, "samples", found.identity[:2])}


def _of_arrays(asked: Asked, data: ArrayData) -> dict[str, Part]:
    """A part for each component whose inputs are all there. Raises DataError where an array does not fit its input."""
    parts = {}
    for component in asked.manifest.components:
        if {*component.signature.input_names} <= {*data.arrays}:
            scanned = scan_arrays(component, data)
            count = scanned.prepared.samples
            parts[component.name] = Part(scanned.prepared, "rows", [scanned.identity, count])
    return parts
