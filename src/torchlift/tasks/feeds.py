"""Drives one component's session over samples of any data set, labelled or not, as calibration needs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.datasets import (
    ArrayData,
    Data,
    ImageData,
    LabelledData,
    ReadOptions,
    RetrievalData,
    Skips,
    TextData,
    ZeroShotData,
    open_data,
)
from torchlift.datasets.base import spread
from torchlift.errors import DataError, SignatureError
from torchlift.pipelines import of_bundle
from torchlift.pipelines.batches import filled, slices, taken
from torchlift.pipelines.clip import IMAGE, TEXT, ClipPipeline
from torchlift.pipelines.tensors import TensorPipeline
from torchlift.progress import SILENT, Progress
from torchlift.signature import Axis, Signature, TensorSpec
from torchlift.tasks.classification import image_input, tensor_images
from torchlift.tasks.scan import facts, in_chunks, normalized, scan_images, usable_texts

AnyPipeline = ClipPipeline | TensorPipeline


@dataclass(frozen=True)
class _Part:
    """The samples of one component: how many, what they are, what identifies them, how a pipeline runs over them."""

    count: int
    what: str
    identity: Any
    run: Callable[[AnyPipeline], None]


@dataclass(frozen=True)
class Feeder:
    """Runs sessions over samples, prepared and batched as the pipeline does it. ``name`` is the data set's, ``said``
    names the samples in words, ``fingerprint`` is a SHA-256 over them.
    """

    bundle: Bundle
    name: str
    said: str
    fingerprint: str
    parts: Mapping[str, _Part]
    progress: Progress

    def __call__(self, component: str, session: Session) -> int:
        """Run a component's session over its samples; how many. Raises DataError where the data have none for it."""
        if component not in self.parts:
            signature = self.bundle.manifest.component(component).signature
            inputs = ", ".join(f"{spec.name} {spec}" for spec in signature.inputs)
            raise DataError(
                f"{self.said}: nothing there for the component {component}, which takes {inputs}",
                remedy="Give images or texts that the model takes, or a .npz with an array for each input, by name.",
            )
        part = self.parts[component]
        with of_bundle(self.bundle, {component: session}, progress=self.progress) as pipeline:
            part.run(pipeline)
        return part.count


def drive(
    bundle: Bundle, path: str | os.PathLike[str], options: ReadOptions | None = None, progress: Progress = SILENT
) -> Feeder:
    """What feeds components with the samples at ``path``: any data set, or arrays by input name.

    Of retrieval and zero-shot data come images and texts. What cannot be read is skipped, and that is noted. Raises
    DataError where the data cannot be read or do not fit the model.
    """
    data = open_data(path, options)
    if isinstance(data, ArrayData):
        parts = _of_arrays(bundle, data)
        said, skips = f"the array{'s' * (len(data.arrays) > 1)} {', '.join(data.arrays)}", Skips()
    else:
        with of_bundle(bundle) as pipeline:
            parts = {**_of_images(pipeline, data, progress), **_of_texts(pipeline, data)}
        said, skips = " and ".join(f"{part.count:,} {part.what}" for part in parts.values()) or data.kind, data.skips
    counts = {name: part.count for name, part in parts.items()}
    found = facts(data.name, data.kind, counts, [[name, part.identity] for name, part in parts.items()], skips)
    if skips.count:
        progress.note(f"{skips.count:,} records of {data.name} are skipped: {skips}")
    return Feeder(bundle, data.name, f"{said} of {data.name}", found.fingerprint, parts, progress)


def _of_images(pipeline: AnyPipeline, data: Data, progress: Progress) -> dict[str, _Part]:
    if not isinstance(data, (RetrievalData, LabelledData, ImageData)):
        return {}
    if isinstance(pipeline, ClipPipeline):
        component, decode = IMAGE, pipeline.image_input
    else:
        component, decode = pipeline.component, pipeline.preprocess[image_input(pipeline)]
    scanned = scan_images(data.images, decode, data.skips, progress)

    def run(opened: AnyPipeline) -> None:
        encode = opened.encode_image if isinstance(opened, ClipPipeline) else partial(tensor_images, opened)
        signature = opened.bundle.manifest.component(component).signature
        for _ in in_chunks(scanned.images, encode, signature, progress):
            pass

    return {component: _Part(len(scanned.images), "images", scanned.identity, run)}


def _of_texts(pipeline: AnyPipeline, data: Data) -> dict[str, _Part]:
    match data:
        case RetrievalData():
            texts = [text.text for text in data.texts]
        case ZeroShotData() | TextData():
            texts = [*data.texts]
        case _:
            return {}
    if not isinstance(pipeline, ClipPipeline):
        return {}
    texts = [normalized(text) for text in texts]
    kept = [texts[i] for i in usable_texts(texts, [f"text {text[:20]!r}" for text in texts], pipeline, data.skips)]
    if not kept:
        raise DataError(f"no text of {data.name} can be used: {data.skips}", remedy="Give texts that can be read.")

    def run(opened: AnyPipeline) -> None:
        assert isinstance(opened, ClipPipeline)
        opened.encode_text(kept)

    return {TEXT: _Part(len(kept), "texts", kept, run)}


def _of_arrays(bundle: Bundle, data: ArrayData) -> dict[str, _Part]:
    """A part for each component whose inputs are all there. Raises DataError where an array does not fit its input."""
    parts = {}
    for component in bundle.manifest.components:
        if {*component.signature.input_names} <= {*data.arrays}:
            arrays = {name: data.arrays[name] for name in component.signature.input_names}
            feeds = _Rows(data.name, component.signature, arrays, data.limit)
            hashes = [[name, str(a.dtype), a.shape, sha256(a.tobytes()).hexdigest()] for name, a in arrays.items()]
            run = partial(_run_feeds, component=component.name, feeds=feeds)
            parts[component.name] = _Part(feeds.count, "rows", [hashes, feeds.count], run)
    return parts


def _run_feeds(opened: AnyPipeline, component: str, feeds: _Rows) -> None:
    session = opened.session(component)
    for batch in feeds:
        session.run(batch)


class _Rows:
    """Arrays as batches of the signature's optimum, at most ``limit`` rows. Raises DataError where they do not fit."""

    def __init__(self, name: str, signature: Signature, arrays: Mapping[str, np.ndarray], limit: int | None) -> None:
        self._signature = signature
        self._positions = {spec.name: spec.batch_position for spec in signature.inputs}
        for spec in signature.inputs:
            if arrays[spec.name].ndim != len(spec.shape):
                raise _unfit(name, spec, arrays[spec.name])
        rows = {n: arrays[n].shape[p] for n, p in self._positions.items() if p is not None}
        if len({*rows.values()}) > 1 or 0 in rows.values():
            raise DataError(
                f"{name}: the arrays have {', '.join(f'{n} {count}' for n, count in rows.items())} rows",
                remedy="Give every input the same number of rows, one or more.",
            )
        total = next(iter(rows.values()), 1)
        chosen = [*spread(total, limit)]
        self.count = len(chosen)
        self._arrays = {
            n: array if (p := self._positions[n]) is None or self.count == total else array.take(chosen, p)
            for n, array in arrays.items()
        }
        try:
            signature.check(next(iter(self)))
        except SignatureError as error:
            raise DataError(f"{name}: {error.message}", remedy=error.remedy) from error

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        axis = self._signature.batch
        for part in slices(self.count, axis.opt if axis else 1):
            yield {name: self._batch(name, axis, part) for name in self._arrays}

    def _batch(self, name: str, axis: Axis | None, part: slice) -> np.ndarray:
        array, position = self._arrays[name], self._positions[name]
        if axis is None or position is None:
            return array
        return filled(taken(array, part, position), axis.min, position)


def _unfit(name: str, spec: TensorSpec, array: np.ndarray) -> DataError:
    return DataError(f"{name}: {spec.name} is {array.dtype}{list(array.shape)}", remedy=f"It must be {spec}.")
