"""The pipeline of any component: called like a function, with what its author declared of inputs and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from torchlift.errors import BundleError
from torchlift.pipelines.base import Pipeline, ends_when_closed
from torchlift.processing.answers import finished
from torchlift.signature import Signature


class TensorPipeline(Pipeline):
    """A bundle with one component, called like a function."""

    together = True

    def _set_up(self) -> None:
        if len(self.bundle.manifest.components) != 1:
            raise BundleError(
                f"{self.bundle.path} has {len(self.bundle.manifest.components)} components, and its pipeline takes one",
                remedy="Ship the model again.",
            )
        self.component = self.bundle.manifest.components[0].name

    @property
    def signature(self) -> Signature:
        """The inputs and outputs: names, dtypes, shapes."""
        return self.bundle.manifest.component(self.component).signature

    def __call__(self, inputs: Mapping[str, Any], *, size: int | None = None) -> dict[str, Any]:
        """Input name -> value to output name -> answer.

        For example ``net({"image": ["cat.jpg"]})`` gives ``{"logits": [[("cat", 0.98), ("dog", 0.01)]]}``.

        A value is a list of pictures or of texts, where the input is declared so, or an array of the signature's dtype
        and shape. Numbers of Python take that dtype: 3 is a row of an input [batch], [3, 7.5] are two.

        An answer is what the output is declared to be: a list of (name, score) a row, an embedding, or an array. Any
        number of rows is split into batches of ``size`` (default: the batch axis' optimum), or as many as an engine's
        profiles hold, unless an output has no batch axis. Pictures are decoded in threads while the session works on
        the batch before. Raises InputError, SignatureError, ProfileError where no profile holds any number of them.
        """
        return self.answers(self.arrays(inputs, size=size))

    def answers(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What a call answers, of the arrays that the model gives."""
        declared = self.bundle.manifest.component(self.component).answers
        return {name: finished(declared[name], array) for name, array in arrays.items()}

    @ends_when_closed
    def arrays(self, inputs: Mapping[str, Any], *, size: int | None = None) -> dict[str, np.ndarray]:
        """As a call, but every output is the array that the model gives."""
        self.session(self.component)  # a bundle that cannot serve says so first
        preparer = self.preparer(self.component)
        prepared = preparer.prepare(inputs)
        self._note_cut(preparer.cut(prepared))
        return self.run(self.component, prepared, size)
