"""Chinese-CLIP opened for use: pictures and texts to features, and how well they match."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from torchlift.bundle import Bundle
from torchlift.errors import BundleError, InputError
from torchlift.machine import usable_cores
from torchlift.pipelines.base import OpenOptions, Pipeline
from torchlift.pipelines.batches import ahead, batch_size, filled, slices
from torchlift.processing.image import ImageInput, Source
from torchlift.processing.labels import l2_normalize, softmax
from torchlift.processing.text import Tokenizer
from torchlift.progress import Progress
from torchlift.signature import Axis, Signature

IMAGE, TEXT = "image", "text"

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that CLIP was trained on, R, G, B in 0..1."""

LONGEST_TEXT = 4096
"""Characters. The model reads some 50 tokens: a longer text was hardly meant as a caption."""


class ClipPipeline(Pipeline):
    """Encodes pictures and texts into one space. Features are float32 [N, E], L2-normalised unless asked otherwise."""

    def __init__(self, bundle: Bundle, options: OpenOptions, progress: Progress) -> None:
        super().__init__(bundle, options, progress)
        try:
            resolution = int(bundle.manifest.settings["resolution"])
            self.logit_scale = math.exp(float(bundle.manifest.settings["logit_scale"]))
            vocabulary = bundle.file(bundle.manifest.assets["vocabulary"]).read_bytes()
            context = int(bundle.manifest.settings["context_length"])
        except (KeyError, ValueError, TypeError) as error:
            raise BundleError(
                f"the bundle's settings are not those of Chinese-CLIP: {error}", remedy="Ship the model again."
            ) from error
        self.image_input = ImageInput((resolution, resolution), MEAN, STD)
        self.tokenizer = Tokenizer(vocabulary, context)
        self._pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")

    def encode_image(self, images: Sequence[Source], *, size: int | None = None, normalize: bool = True) -> np.ndarray:
        """Features of pictures: paths, encoded bytes, Pillow images or uint8 arrays [H, W, 3].

        Pictures are decoded in threads while the session works on the batch before; batches have ``size`` rows
        (default: the signature's optimum). Raises InputError that names the picture.
        """
        images = _listed(images, "pictures")
        signature, session = self._open(IMAGE)
        axis = _batch(signature)
        parts = slices(len(images), batch_size(axis, size))
        batches = (filled(pixels, axis) for pixels in self._pixels(images, parts))
        features = [session.run({IMAGE: pixels})[signature.output_names[0]] for pixels in batches]
        return _finished(np.concatenate(features)[: len(images)], normalize)

    def _pixels(self, images: Sequence[Source], parts: Sequence[slice]) -> Any:
        def load(part: slice) -> np.ndarray:
            batch = np.empty((part.stop - part.start, 3, *self.image_input.size), np.float32)
            jobs = [
                self._pool.submit(self.image_input, images[i], out=batch[i - part.start], name=f"picture {i}")
                for i in range(part.start, part.stop)
            ]
            for job in jobs:
                job.result()
            return batch

        return ahead(load, parts, self._loader)

    def encode_text(self, texts: Sequence[str], *, size: int | None = None, normalize: bool = True) -> np.ndarray:
        """Features of texts. Texts of like length share a batch and are padded to its longest only; the order is kept.

        Padding is masked in the graph, so that a feature does not depend on it. A text with more tokens than the model
        reads is cut, as in training, and that is noted. Raises InputError for an empty text, or one of more than
        ``LONGEST_TEXT`` characters.
        """
        texts = _listed(texts, "texts")
        for i, text in enumerate(texts):
            _check_text(i, text)
        tokens = self.tokenizer(texts)
        if any(tokens.truncated):
            cut = [i for i, t in enumerate(tokens.truncated) if t]
            self._progress.note(
                f"{len(cut)} of {len(texts)} texts were cut to {self.tokenizer.context_length} tokens, the first is "
                f"text {cut[0]}"
            )
        signature, session = self._open(TEXT)
        axis, shortest = _batch(signature), signature.axis("sequence").min
        order = np.argsort(tokens.lengths, kind="stable")
        features = np.empty((len(texts), _embedding(signature)), np.float32)
        for part in slices(len(texts), batch_size(axis, size)):
            rows = order[part]
            length = max(shortest, tokens.lengths[rows[-1]])
            ids = np.full((len(rows), length), tokens.pad, np.int64)
            for row, i in enumerate(rows):
                ids[row, : len(tokens.ids[i])] = tokens.ids[i]
            features[rows] = session.run({TEXT: filled(ids, axis)})[signature.output_names[0]][: len(rows)]
        return _finished(features, normalize)

    def similarity(self, image_features: np.ndarray, text_features: np.ndarray) -> np.ndarray:
        """Scaled cosine of normalised features [N, E] and [M, E]: float32 [N, M], the logits that CLIP trains."""
        return np.asarray(self.logit_scale * (image_features @ text_features.T), np.float32)

    def classify(self, images: Sequence[Source], texts: Sequence[str]) -> np.ndarray:
        """For each picture the probability of each text, of those given: float32 [N, M], rows sum to 1."""
        return np.asarray(softmax(self.similarity(self.encode_image(images), self.encode_text(texts))), np.float32)

    def close(self) -> None:
        super().close()
        self._loader.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def _open(self, component: str) -> tuple[Signature, Any]:
        return self.bundle.manifest.component(component).signature, self.session(component)


def _listed(items: Sequence[Any], what: str) -> Sequence[Any]:
    one_array = isinstance(items, np.ndarray) and items.ndim in (2, 3)
    if isinstance(items, (str, bytes)) or one_array or not isinstance(items, Iterable):
        raise InputError(f"one {type(items).__name__} where a list of {what} is expected", remedy="Put it into a list.")
    items = list(items)
    if not items:
        raise InputError(f"there are no {what}: the batch is empty", remedy="Give at least one.")
    return items


def _check_text(index: int, text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"text {index} is {type(text).__name__}", remedy="Give strings.")
    if not text.strip():
        raise InputError(f"text {index} is empty", remedy="Give at least one character that is not white space.")
    if len(text) > LONGEST_TEXT:
        raise InputError(
            f"text {index} has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken",
            remedy="The model reads about 50 tokens: give a caption, or the part of the text that matters.",
        )


def _batch(signature: Signature) -> Axis:
    return signature.batch or Axis("batch", 1, 1, 1)


def _embedding(signature: Signature) -> int:
    size = signature.outputs[0].shape[-1]
    assert isinstance(size, int)
    return size


def _finished(features: np.ndarray, normalize: bool) -> np.ndarray:
    return np.asarray(l2_normalize(features) if normalize else features, np.float32)
