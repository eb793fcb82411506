"""An encoder of texts, as sentence-transformers has them: each text becomes a row of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchlift.declare.answers import Embedding
from torchlift.declare.inputs import TextInput
from torchlift.errors import BundleError
from torchlift.pipelines.base import ends_when_closed
from torchlift.pipelines.tensors import TensorPipeline


class TextEncoder(TensorPipeline):
    """A bundle with one component, which turns a text into an embedding. It may be called like a function, too."""

    def _set_up(self) -> None:
        super()._set_up()
        component = self.bundle.manifest.component(self.component)
        texts = component.inputs_of(TextInput)
        outputs = [name for name, answer in component.answers.items() if isinstance(answer, Embedding)]
        if len(texts) != 1 or len(outputs) != 1:
            raise BundleError(
                f"{self.bundle.path} has {len(texts)} inputs of texts and {len(outputs)} embeddings, and its pipeline "
                "needs one of each",
                remedy="Ship the model again.",
            )
        (self._text,), (self._output,) = texts, outputs

    @ends_when_closed
    def encode(self, texts: Sequence[str], *, size: int | None = None) -> np.ndarray:
        """The embeddings of texts, float32 [N, width], in their order.

        Texts of like length share a batch of at most ``size`` rows. A text with more tokens than the model reads is
        cut, and that is noted. Raises InputError for one without any token.
        """
        found: np.ndarray = self({self._text: texts}, size=size)[self._output]
        return found
