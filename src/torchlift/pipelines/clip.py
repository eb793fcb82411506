"""Chinese-CLIP opened for use: pictures and texts to features, and how well they match."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.errors import BundleError, InputError
from torchlift.pipelines.base import OpenOptions, Pipeline, ends_when_closed
from torchlift.pipelines.batches import batch_axis, batch_size, covered_batches, filled, listed
from torchlift.pipelines.texts import SEQUENCE, TextBatches
from torchlift.processing.clip import MEAN, STD
from torchlift.processing.image import ImageInput, ImageSource
from torchlift.processing.labels import l2_normalize, softmax
from torchlift.processing.text import END, START, Tokenizer, Tokens
from torchlift.progress import Progress
from torchlift.signature import Signature

IMAGE, TEXT = "image", "text"

LONGEST_TEXT = 4096
"""Characters. The model reads some 50 tokens: a longer text was hardly meant as a caption."""


class ClipPipeline(Pipeline):
    """Encodes pictures and texts into one space. Features are float32 [N, E], L2-normalised unless asked otherwise."""

    def __init__(
        self,
        bundle: Bundle,
        options: OpenOptions,
        progress: Progress,
        sessions: Mapping[str, Session] | None = None,
    ) -> None:
        super().__init__(bundle, options, progress, sessions)
        try:
            resolution = int(bundle.manifest.settings["resolution"])
            self.logit_scale = math.exp(float(bundle.manifest.settings["logit_scale"]))
            vocabulary = bundle.read(bundle.manifest.assets["vocabulary"])
            context = int(bundle.manifest.settings["context_length"])
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise BundleError(
                f"the bundle's settings are not those of Chinese-CLIP: {error}", remedy="Ship the model again."
            ) from error
        self.image_input = ImageInput((resolution, resolution), MEAN, STD)
        self.tokenizer = Tokenizer(vocabulary, context)
        self._batches: dict[int | None, TextBatches] = {}

    @ends_when_closed
    def encode_image(
        self, images: Sequence[ImageSource], *, size: int | None = None, normalize: bool = True
    ) -> np.ndarray:
        """Features of pictures: paths, encoded bytes, Pillow images or uint8 arrays [H, W, 3].

        Pictures are decoded in threads while the session works on the batch before; batches have ``size`` rows
        (default: the signature's optimum), or as many as an engine's profiles hold. Raises InputError that names the
        picture, ProfileError where no profile holds any number of them.
        """
        images = listed(images, "pictures")
        signature, session = self._open(IMAGE)
        axis = batch_axis(signature)
        decode = partial(self._loader.decoded, self.image_input, images, what="picture")
        batches = covered_batches(session, axis, batch_size(axis, size), len(images))
        features = np.empty((len(images), _embedding(signature)), np.float32)
        for batch, pixels in zip(batches, self._loader.ahead(decode, [b.rows for b in batches]), strict=True):
            found = session.run({IMAGE: filled(pixels, batch.size)})[signature.output_names[0]]
            features[batch.rows] = found[: len(pixels)]
        return _finished(features, normalize)

    @ends_when_closed
    def encode_text(self, texts: Sequence[str], *, size: int | None = None, normalize: bool = True) -> np.ndarray:
        """Features of texts. Texts of like length share a batch and are padded to its longest, or a little more on a
        GPU; the order is kept.

        Batches have at most ``size`` rows, by default the signature's optimum; on a GPU, by default, its maximum, and
        a bounded number of tokens, padding counted, so that more of short ones share a batch.

        Padding is masked in the graph, so that a feature does not depend on it: where an engine's profiles hold only
        longer ones, texts are padded to the least of those, and a session that records shapes gets few
        (:class:`~torchlift.pipelines.texts.TextBatches`). A text with more tokens than the model reads is cut, as in
        training, and that is noted. Raises InputError for a text without any token, or of more than ``LONGEST_TEXT``
        characters, ProfileError where no profile holds a text.
        """
        texts = listed(texts, "texts")
        tokens = self.tokens(texts)
        if any(tokens.truncated):
            long = [i for i, t in enumerate(tokens.truncated) if t]
            self._progress.note(
                f"{len(long)} of {len(texts)} texts were cut to {self.tokenizer.context_length} tokens, the first is "
                f"text {long[0]}"
            )
        signature, session = self._open(TEXT)
        order = np.argsort(tokens.lengths, kind="stable")
        lengths = np.maximum(np.asarray(tokens.lengths)[order], signature.axis(SEQUENCE).min)
        features = np.empty((len(texts), _embedding(signature)), np.float32)
        batches = self._batches.get(size)
        if batches is None:  # several threads may make one at once: they are alike
            batches = self._batches[size] = TextBatches(session, signature, size)
        for batch, length in batches.of(lengths.tolist()):
            rows = order[batch.rows]
            ids = np.full((len(rows), length), tokens.pad, np.int64)
            for row, i in enumerate(rows):
                ids[row, : len(tokens.ids[i])] = tokens.ids[i]
            features[rows] = session.run({TEXT: filled(ids, batch.size)})[signature.output_names[0]][: len(rows)]
        return _finished(features, normalize)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """The token ids of texts. Raises InputError as :meth:`encode_text` does."""
        for i, text in enumerate(texts):
            _check_text(i, text)
        tokens = self.tokenizer(texts)
        for i, ids in enumerate(tokens.ids):
            if len(ids) == len((START, END)):
                raise InputError(
                    f"text {i} is empty",
                    remedy="Give at least one character that is not white space and that can be seen.",
                )
        return tokens

    def similarity(self, image_features: np.ndarray, text_features: np.ndarray) -> np.ndarray:
        """Scaled cosine of normalised features [N, E] and [M, E]: float32 [N, M], the logits that CLIP trains."""
        return np.asarray(self.logit_scale * (image_features @ text_features.T), np.float32)

    def classify(self, images: Sequence[ImageSource], texts: Sequence[str]) -> np.ndarray:
        """For each picture the probability of each text, of those given: float32 [N, M], rows sum to 1."""
        return np.asarray(softmax(self.similarity(self.encode_image(images), self.encode_text(texts))), np.float32)

    def _open(self, component: str) -> tuple[Signature, Session]:
        return self.bundle.manifest.component(component).signature, self.session(component)


def _check_text(index: int, text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"text {index} is {type(text).__name__}", remedy="Give strings.")
    if len(text) > LONGEST_TEXT:
        raise InputError(
            f"text {index} has {len(text):,} characters; at most {LONGEST_TEXT:,} are taken",
            remedy="The model reads about 50 tokens: give a caption, or the part of the text that matters.",
        )


def _embedding(signature: Signature) -> int:
    size = signature.outputs[0].shape[-1]
    assert isinstance(size, int)
    return size


def _finished(features: np.ndarray, normalize: bool) -> np.ndarray:
    return np.asarray(l2_normalize(features) if normalize else features, np.float32)
