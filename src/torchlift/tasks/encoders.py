"""What tasks on embeddings share: a model with an encoder of pictures and one of texts, or one of texts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torchlift.declare.answers import Embedding, Labels
from torchlift.declare.inputs import ImageInput, TextInput, TextPart
from torchlift.errors import BundleError
from torchlift.manifest import Component, Manifest
from torchlift.pipelines.columns import Prepared
from torchlift.pipelines.dual_encoder import encoder_of
from torchlift.pipelines.prepare import Preparer
from torchlift.processing.answers import finished
from torchlift.signature import BATCH
from torchlift.tasks.base import ANSWER, Misfit, Task
from torchlift.tasks.samples import Asked


@dataclass(frozen=True)
class Encoders:
    """The names of the two components, and of the input of each."""

    image: str
    image_input: str
    text: str
    text_input: str
    preparer_of_texts: Preparer

    @classmethod
    def of(cls, asked: Asked) -> Encoders:
        """Raises BundleError where the model does not have both."""
        image, image_input = encoder_of(asked.manifest, ImageInput)
        text, text_input = encoder_of(asked.manifest, TextInput)
        return cls(image.name, image_input, text.name, text_input, asked.preparers[text.name])

    @property
    def components(self) -> tuple[str, ...]:
        """Both components, the one of pictures first."""
        return self.image, self.text

    def prepared(self, texts: Sequence[str]) -> Prepared:
        """Texts for the encoder of texts. Raises InputError for one that it does not take."""
        return self.preparer_of_texts.prepare({self.text_input: texts})


class EncoderTask(Task):
    """A task on data that need both encoders. ``needs`` says what such data are, ``instead`` what to do where the model
    does not have both.
    """

    needs: ClassVar[str]
    instead: ClassVar[str]

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models that encode pictures and texts into one space."""
        try:
            encoder_of(manifest, ImageInput)
            encoder_of(manifest, TextInput)
        except BundleError:
            said = f"{cls.needs}, and the model does not encode pictures and texts into one space"
            return Misfit(said, cls.instead)
        return None

    def answers(self, component: str, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """L2-normalised features float32 [N, E] of all pictures or of all texts."""
        (features,) = outputs.values()
        return {ANSWER: finished(Embedding(), features)}


def text_input(component: Component) -> str:
    """The input that takes texts, where all others follow from it; else empty."""
    texts = component.inputs_of(TextInput)
    others = [declared for name, declared in component.inputs.items() if name not in texts]
    return texts[0] if len(texts) == 1 and all(isinstance(declared, TextPart) for declared in others) else ""


def embedding_output(component: Component) -> str:
    """The output with a row of numbers a text: that which is declared, else the only one of that shape; else empty."""
    declared = [name for name, answer in component.answers.items() if isinstance(answer, Embedding)]
    shaped = [
        spec.name
        for spec in component.signature.outputs
        if len(spec.shape) == 2
        and spec.shape[0] == BATCH
        and isinstance(spec.shape[1], int)
        and not isinstance(component.answers[spec.name], Labels)
    ]
    names = declared or shaped
    return names[0] if len(names) == 1 else ""
