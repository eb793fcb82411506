"""The pipeline of any component: called like a function, with what its author declared of inputs and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from torchlift.declare.answers import TokenLabels
from torchlift.errors import BundleError
from torchlift.pipelines.base import Pipeline, ends_when_closed
from torchlift.processing.answers import finished
from torchlift.signature import Signature


class LabelledToken(NamedTuple):
    """A token of a text: ``text[start:end]``, in characters, the best label and its probability."""

    text: str
    start: int
    end: int
    label: str
    score: float


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

        An answer is what the output is declared to be: a list of (name, score) a row, an embedding, or an array. Where
        texts are given, an output with an answer for each token, [batch, sequence, ...], is a list with an array a row,
        without padding. Labels of tokens are a list of :class:`LabelledToken` a text, and of (name, score) a row of
        ids.

        Any number of rows is split into batches of ``size`` (default: the batch axis' optimum), or as many as an
        engine's profiles hold, unless an output has no batch axis. Pictures are decoded in threads while the session
        works on the batch before. Raises InputError, SignatureError, ProfileError where no profile holds any number of
        them.
        """
        return self.answers(self.arrays(inputs, size=size), inputs)

    def answers(self, arrays: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What a call answers to the inputs, of the arrays that the model gives."""
        component = self.bundle.manifest.component(self.component)
        found = {name: finished(component.answers[name], array) for name, array in arrays.items()}
        for name, answer in found.items():
            if isinstance(component.answers[name], TokenLabels):
                found[name] = self._placed(answer, inputs)
        return found

    def _placed(self, rows: list[list[tuple[str, float]]], inputs: Mapping[str, Any]) -> list[Any]:
        """Labels of tokens with their places, where they are of texts."""
        preparer = self.preparer(self.component)
        texts = preparer.texts(inputs)
        if texts is None or len(texts) != len(rows):
            return rows  # of ids, or of pairs of texts
        places = preparer.places(texts)
        return [
            [
                LabelledToken(text[place[0] : place[1]], *place, label, score)
                for place, (label, score) in zip(found, labels, strict=True)
                if place is not None
            ]
            for text, found, labels in zip(texts, places, rows, strict=True)
        ]

    @ends_when_closed
    def arrays(self, inputs: Mapping[str, Any], *, size: int | None = None) -> dict[str, Any]:
        """As a call, but every output is the array that the model gives, or the list of arrays."""
        self.session(self.component)  # a bundle that cannot serve says so first
        preparer = self.preparer(self.component)
        prepared = preparer.prepare(inputs)
        self._note_cut(preparer.cut(prepared))
        axis = prepared.padded_axis
        ragged = {spec.name for spec in self.signature.outputs if axis is not None and axis in spec.shape}
        if not ragged:
            return self.run(self.component, prepared, size)
        found = self.run_rows(self.component, prepared, size)
        return {name: rows if name in ragged else np.stack(rows) for name, rows in found.items()}
