"""Classification of texts: accuracy and macro F1 of a model with one text input and one output of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from torchlift.datasets import TextClassData
from torchlift.declare.answers import Labels
from torchlift.errors import DataError
from torchlift.manifest import Component, Manifest
from torchlift.progress import Progress
from torchlift.tasks.base import ANSWER, Answers, Misfit, Task
from torchlift.tasks.encoders import text_input
from torchlift.tasks.metrics import METRICS
from torchlift.tasks.samples import Asked, facts, usable_texts

_METRICS = (METRICS["accuracy"], METRICS["f1"])


class TextClassificationTask(Task):
    """accuracy: the share of texts that get the right label. f1: the mean F1 of the classes that occur (macro F1).

    The labels of the data are the names of the model's labels, or all of them their numbers, from 0.
    """

    name: ClassVar[str] = "text-classification"
    primary = "accuracy"
    reads: ClassVar[type] = TextClassData

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models with one component, which takes a text and gives one output of labels."""
        if len(manifest.components) == 1 and text_input(manifest.components[0]) and _output(manifest.components[0]):
            return None
        return Misfit(
            "texts with labels, and the model does not give labels to a text", "Declare TextInput and Labels for it."
        )

    @classmethod
    def open(cls, asked: Asked, data: TextClassData, progress: Progress) -> TextClassificationTask:
        """Raises DataError for labels that the model does not have, and where no text can be used."""
        return cls(asked, data)

    def __init__(self, asked: Asked, data: TextClassData) -> None:
        (component,) = asked.manifest.components
        name, self._output = text_input(component), _output(component)
        declared = component.answers[self._output]
        assert isinstance(declared, Labels)
        numbers = label_numbers(data.labels, declared.names, data.name)
        preparer = asked.preparers[component.name]
        said = [f"text {row}" for row in range(len(data.texts))]
        usable = usable_texts(preparer, name, data.texts, said, data.skips)
        if not usable:
            raise DataError(f"no text of {data.name} can be used: {data.skips}", remedy="Give texts that can be read.")
        texts = [data.texts[row] for row in usable]
        self._right = numbers[usable]
        self.components, self.samples = (component.name,), {component.name: preparer.prepare({name: texts})}
        counts = {"texts": len(texts), "classes": len(declared.names)}
        read = facts(data.name, self.name, counts, [texts, self._right.tolist()], data.skips)
        super().__init__(read, {metric: (len(texts), "texts") for metric in _METRICS})

    def answers(self, component: str, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Logits float [texts, classes]."""
        return {ANSWER: outputs[self._output]}

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        logits = answers[self.components[0]][ANSWER]
        return {m.name: np.asarray(m.function(logits, self._right)) for m in self.measures if m.function is not None}


def label_numbers(labels: Sequence[str], names: Sequence[str], where: str) -> np.ndarray:
    """The number of each label, int64: all are names, or all numbers from 0. Raises DataError for others."""
    known = {name: number for number, name in enumerate(names)}
    folded = {name.casefold(): number for name, number in known.items()}
    for numbers in (known, folded if len(folded) == len(known) else known, {str(n): n for n in range(len(names))}):
        found = [numbers.get(label, numbers.get(label.casefold())) for label in labels]
        if None not in found:
            return np.array(found, np.int64)
    distinct = dict.fromkeys(labels)
    strange = [label for label in distinct if label not in known] or [*distinct]
    most = 5
    raise DataError(
        f"{where} has labels that the model does not know: {', '.join(map(repr, strange[:most]))}",
        remedy=f"Its labels are {', '.join(names[:most])}{', ...' * (len(names) > most)}, or numbers from 0 to "
        f"{len(names) - 1}.",
    )


def _output(component: Component) -> str:
    """The only output that is declared to be labels; else empty."""
    found = [name for name, answer in component.answers.items() if isinstance(answer, Labels)]
    return found[0] if len(found) == 1 else ""
