"""Agreement: how often a model answers as PyTorch does, on data that nobody labelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, get_args

import numpy as np

from torchlift.datasets import TextClassData, Unlabelled
from torchlift.declare.answers import Embedding, Labels
from torchlift.errors import DataError
from torchlift.manifest import Component, Manifest
from torchlift.progress import Progress
from torchlift.tasks.base import ANSWER, Answers, Misfit, Task
from torchlift.tasks.calibration import parts_of
from torchlift.tasks.metrics import METRICS
from torchlift.tasks.samples import Asked, facts


class AgreementTask(Task):
    """agreement: the share of samples that get the label that they get by PyTorch, of a model that gives labels.
    neighbours@1: the share of samples whose nearest other sample is the one that it is by PyTorch, of one that embeds.
    """

    name: ClassVar[str] = "agreement"
    last_resort = True
    reads = (*get_args(Unlabelled), TextClassData)

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models with one component: of several it is not known what is compared."""
        if len(manifest.components) == 1:
            return None
        return Misfit(
            "without labels, and the model has several components", "It can calibrate; score on labelled data."
        )

    @classmethod
    def open(cls, asked: Asked, data: Unlabelled, progress: Progress) -> AgreementTask:
        """Raises DataError where the data are not for the model's input, and where no answer is declared."""
        return cls(asked, data, progress)

    def __init__(self, asked: Asked, data: Unlabelled, progress: Progress) -> None:
        (component,) = asked.manifest.components
        self._output, self.primary = _compared(component)
        parts = parts_of(asked, data, progress)
        if component.name not in parts:
            inputs = ", ".join(f"{spec.name} {spec}" for spec in component.signature.inputs)
            raise DataError(
                f"{data.name} has {data.kind}, and the model takes {inputs}",
                remedy="Give what it takes; its declaration says which inputs are images or texts.",
            )
        part = parts[component.name]
        self.components, self.samples = (component.name,), {component.name: part.prepared}
        read = facts(data.name, self.name, {part.what: part.count}, [data.kind, part.identity], data.skips)
        super().__init__(read, {METRICS[self.primary]: (part.count, part.what)})

    def answers(self, component: str, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The output that is compared, as it is, with a row a sample."""
        return {ANSWER: outputs[self._output]}

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        """None: nothing is right or wrong by itself."""
        return {}

    def likeness(self, answers: Mapping[str, Answers], reference: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        """1 where a sample is answered as by the reference, else 0: float64 [samples]."""
        compare = METRICS[self.primary].function
        assert compare is not None
        ours, theirs = (found[self.components[0]][ANSWER] for found in (answers, reference))
        return {self.primary: compare(ours, theirs)}


def _compared(component: Component) -> tuple[str, str]:
    """The only output that is declared to be labels or an embedding, and the metric for it."""
    metrics = {
        name: "agreement" if isinstance(answer, Labels) else "neighbours@1"
        for name, answer in component.answers.items()
        if isinstance(answer, (Labels, Embedding))
    }
    if len(metrics) != 1:
        said = f"{', '.join(metrics)} are declared" if metrics else "no output is declared to be labels or an embedding"
        raise DataError(
            f"what is compared on data without labels? {said}",
            remedy="Declare Labels or Embedding for one output, or score from Python: metrics=['logits.agreement'].",
        )
    return next(iter(metrics.items()))
