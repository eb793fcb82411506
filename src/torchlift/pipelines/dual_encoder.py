"""An encoder of pictures and one of texts into one space, as CLIP has them: features, and how well they match."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from torchlift.declare.answers import Embedding
from torchlift.declare.inputs import ImageInput, TextInput
from torchlift.errors import BundleError, InputError
from torchlift.manifest import Component, Manifest
from torchlift.pipelines.base import Pipeline, ends_when_closed
from torchlift.pipelines.columns import Prepared
from torchlift.processing.answers import finished, softmax
from torchlift.processing.image import ImageSource

LARGEST_SCALE = 1e4
"""The largest factor of the cosine that is believed, and one over it the least. CLIP's is at most 100."""


def encoder_of(manifest: Manifest, kind: type) -> tuple[Component, str]:
    """The component that turns one input of a kind into an embedding, and the name of that input.

    Raises BundleError where there is not just one.
    """
    found = [
        (component, name)
        for component in manifest.components
        for name in component.inputs_of(kind)
        if isinstance(component.answers[component.signature.output_names[0]], Embedding)
    ]
    if len(found) != 1:
        raise BundleError(
            f"{manifest.name} has {len(found)} encoders that take a {kind.__name__}, and its pipeline needs one",
            remedy="Ship the model again.",
        )
    return found[0]


class DualEncoder(Pipeline):
    """Encodes pictures and texts into one space. Features are float32 [N, E], L2-normalised unless asked otherwise.

    ``image`` and ``text`` are the names of the two components. ``logit_scale`` is what the cosine is multiplied by.
    """

    def _set_up(self) -> None:
        image, self._image_input = encoder_of(self.bundle.manifest, ImageInput)
        text, self._text_input = encoder_of(self.bundle.manifest, TextInput)
        self.image, self.text = image.name, text.name
        self.logit_scale = _logit_scale(self.bundle.manifest)

    @ends_when_closed
    def encode_image(
        self, images: Sequence[ImageSource], *, size: int | None = None, normalize: bool = True
    ) -> np.ndarray:
        """Features of pictures: paths, encoded bytes, Pillow images or uint8 arrays [H, W, 3].

        Pictures are decoded in threads while the session works on the batch before; batches have ``size`` rows
        (default: the signature's optimum), or as many as an engine's profiles hold. Raises InputError that names the
        picture, ProfileError where no profile holds any number of them.
        """
        prepared = self.preparer(self.image).prepare({self._image_input: images})
        return self._features(self.image, prepared, size, normalize)

    @ends_when_closed
    def encode_text(self, texts: Sequence[str], *, size: int | None = None, normalize: bool = True) -> np.ndarray:
        """Features of texts. Texts of like length share a batch and are padded to its longest, or a little more on a
        GPU; the order is kept.

        Batches have at most ``size`` rows, by default the signature's optimum; on a GPU, by default, its maximum, and
        a bounded number of tokens, padding counted, so that more of short ones share a batch.

        Padding is masked in the graph, so that a feature does not depend on it: where an engine's profiles hold only
        longer ones, texts are padded to the least of those, and a session that records shapes gets few
        (:class:`~torchlift.pipelines.texts.TextBatches`). A text with more tokens than the model reads is cut, as in
        training, and that is noted. Raises InputError for a text without any token, or with more characters than are
        declared, ProfileError where no profile holds a text.
        """
        preparer = self.preparer(self.text)
        prepared = preparer.prepare({self._text_input: texts})
        self._note_cut(preparer.cut(prepared))
        return self._features(self.text, prepared, size, normalize)

    def similarity(self, image_features: np.ndarray, text_features: np.ndarray) -> np.ndarray:
        """Scaled cosine of normalised features [N, E] and [M, E]: float32 [N, M], the logits that CLIP trains.

        Raises InputError for what is no array of features, and for features of different widths.
        """
        images, texts = _rows("image_features", image_features), _rows("text_features", text_features)
        if images.shape[1] != texts.shape[1]:
            raise InputError(
                f"image_features have {images.shape[1]} columns, text_features {texts.shape[1]}",
                remedy="Give features of the same bundle.",
            )
        return np.asarray(self.logit_scale * (images @ texts.T), np.float32)

    def classify(self, images: Sequence[ImageSource], texts: Sequence[str]) -> np.ndarray:
        """For each picture the probability of each text, of those given: float32 [N, M], rows sum to 1."""
        return np.asarray(softmax(self.similarity(self.encode_image(images), self.encode_text(texts))), np.float32)

    def _features(self, name: str, prepared: Prepared, size: int | None, normalize: bool) -> np.ndarray:
        component = self.bundle.manifest.component(name)
        output = component.signature.output_names[0]
        features: np.ndarray = finished(Embedding(normalize), self.run(name, prepared, size)[output])
        return features


def _logit_scale(manifest: Manifest) -> float:
    found = manifest.settings.get("logit_scale")
    try:
        scale = math.exp(float(found))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        scale = math.inf
    if not 1 / LARGEST_SCALE <= scale <= LARGEST_SCALE:
        raise BundleError(
            f"the bundle's logit_scale is {found!r}",
            remedy=f"Its exponential is from {1 / LARGEST_SCALE:g} to {LARGEST_SCALE:g}: ship it again.",
        )
    return scale


def _rows(name: str, features: object) -> np.ndarray:
    if not isinstance(features, np.ndarray) or features.ndim != 2 or features.dtype.kind != "f":
        said = (
            f"{features.dtype}{list(features.shape)}" if isinstance(features, np.ndarray) else type(features).__name__
        )
        raise InputError(f"{name} is {said}", remedy="Give a float array [rows, width], as encode_image returns.")
    return features
