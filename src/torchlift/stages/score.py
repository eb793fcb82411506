"""Scores variants on the model's own task, against the reference, sample by sample."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from torchlift.backends import Session, SessionOptions
from torchlift.backends.opening import open_source, open_variant
from torchlift.bundle import Bundle
from torchlift.errors import BundleError, InputError, MetricError
from torchlift.evidence import Interval, Measure, Reference, Score, Scoring
from torchlift.machine import HERE, RunOn
from torchlift.manifest import Component, Variant
from torchlift.messages import reference_text
from torchlift.pipelines.run import Loader
from torchlift.progress import SILENT, Named, Progress
from torchlift.prove.verify import provenance, runs_here
from torchlift.tasks import Metric, Task
from torchlift.tasks.base import ANSWER, Answers
from torchlift.tasks.statistics import estimate, paired_drop

OpenReference = Callable[[str], Session]
"""Opens the reference of a component, by name."""

ANSWERS = "answers.safetensors"

_LOST = 100.0
"""What is taken to be lost, in a metric's unit, where the metric is not a number: of shares it is all."""


class Scorer:
    """One task on one bundle. Answers of the reference, and of each variant, are computed once and kept.

    ``references`` opens PyTorch where it is at hand. Where it is not, its answers of an earlier run on the same data
    are taken from the bundle; failing that, the reference is the component's FP32 graph in ONNX Runtime.
    """

    def __init__(
        self,
        bundle: Bundle,
        task: Task,
        references: OpenReference | None = None,
        on: RunOn = HERE,
        progress: Progress = SILENT,
    ) -> None:
        self.bundle = bundle
        self.task = task
        self._on = on
        self._progress = progress
        self._known: dict[str, Answers] = {}
        self._metrics: Mapping[str, Metric] = {metric.name: metric for metric in task.measures}
        self.reference: Reference
        kept = None if references else self._kept()
        if kept is not None:
            self.reference, self._reference = kept
        else:
            self.reference = "pytorch" if references else "source"
            self._reference = self._ask(references or self._source)
        self.outcomes = self._outcomes(self._reference)

    def _kept(self) -> tuple[Reference, Mapping[str, Answers]] | None:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        scoring = self.bundle.manifest.scoring
        if scoring is None or (scoring.task, scoring.data.fingerprint) != (
            self.task.name,
            self.task.data.fingerprint,
        ):
            return None
        try:
            return scoring.reference, _by_component(load(self.bundle.read(scoring.answers)))
        except SafetensorError as error:
            raise BundleError(
                f"{self.bundle.path / scoring.answers} cannot be read: {error}", remedy="Do not use this bundle."
            ) from error

    def _source(self, component: str) -> Session:
        return open_source(self.bundle, self.bundle.manifest.component(component), self._on)

    def _ask(self, references: OpenReference) -> dict[str, Answers]:
        found = {}
        for component in self.task.components:
            with references(component) as session:
                found[component] = self.answers(component, session, f"{component} by {reference_text(self.reference)}")
        return found

    def answers(self, component: str, session: Session, said: str = "") -> Answers:
        """What a session answers to all samples of a component; ``said`` names it in the progress, silent without."""
        progress = Named(self._progress, f"score {said}") if said else SILENT
        with Loader() as loader, progress.stage("samples", self.task.samples[component].count) as stage:
            return self.task.ask(component, session, loader, stage)

    def _outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        return {**self.task.outcomes(answers), **self.task.likeness(answers, self._reference)}

    def answers_of(self, variant: Variant) -> Answers:
        """What a variant answers to all samples of its component."""
        if variant.name not in self._known:
            with open_variant(self.bundle, variant, SessionOptions(self._on)) as session:
                self._known[variant.name] = self.answers(variant.component, session, variant.name)
        return self._known[variant.name]

    def forget(self, variant: Variant) -> None:
        """Ask a variant anew: it was built again."""
        self._known.pop(variant.name, None)

    def drop(self, component: str, answers: Answers, metric: str) -> Interval:
        """How much worse ``metric`` is, in its unit, where ``answers`` of a component replace the reference's: by
        ``_LOST`` where it is not a number any more.
        """
        outcomes = self._outcomes({**self._reference, component: answers})
        found = self._drops({metric: outcomes[metric]})
        return found.get(metric, Interval(_LOST, _LOST, _LOST, self.confidence))

    def measure(self, metric: str) -> Measure:
        """What the numbers of a metric are."""
        return self._metrics[metric].measure

    @property
    def confidence(self) -> float:
        """The confidence, in percent, of the intervals that the bundle's gate asks for."""
        return self.bundle.manifest.gate.interval

    def _estimates(self, outcomes: Mapping[str, np.ndarray]) -> dict[str, Interval]:
        return {name: estimate(self._metrics[name], values, self.confidence) for name, values in outcomes.items()}

    def _drops(self, outcomes: Mapping[str, np.ndarray]) -> dict[str, Interval]:
        """The drop by metric. One that is not a number is left out and noted: no gate takes it as held."""
        found = {}
        for name, values in outcomes.items():
            try:
                found[name] = paired_drop(self._metrics[name], self.outcomes[name], values, self.confidence)
            except MetricError as error:
                self._progress.note(f"left out: {error.message}")
        return found

    def distance(self, component: str, answers: Answers) -> float:
        """How far answers are from the reference's, as the task tells it."""
        return self.task.distance(answers, self._reference[component])

    def score(self, variants: Mapping[str, Variant]) -> Score:
        """Score variants, by component, with the reference for the components that are not given."""
        answers = {component: self.answers_of(variant) for component, variant in variants.items()}
        answers = {**self._reference, **answers}
        outcomes = self._outcomes(answers)
        proofs = [provenance(self.bundle, variant) for variant in variants.values()]
        files = {path: digest for proof in proofs for path, digest in proof.files.items()}
        runtimes = ", ".join(dict.fromkeys(proof.runtime for proof in proofs))
        drops = self._drops(outcomes)
        return Score(
            provenance=replace(proofs[0], runtime=runtimes, files=files),
            metrics=self._estimates({name: outcomes[name] for name in drops}),
            drops=drops,
            by_class=self.task.by_class(answers),
        )

    def require_files(self) -> None:
        """Raise InputError for a task that has no files of its own."""
        if not self.task.has_files:
            raise InputError(f"{self.task.name} has no files of its own", remedy="Leave `write=` out.")

    def save(self, folder: Path, variants: Mapping[str, Variant]) -> None:
        """Write the variants' answers in the formats of the task's own scripts. Raises InputError for a task that has
        none.
        """
        self.require_files()
        self.task.save(folder, {name: self.answers_of(variant) for name, variant in variants.items()})

    @functools.cached_property
    def _achieved(self) -> dict[str, Interval]:
        """What the reference achieves. Raises MetricError where a metric is not a number."""
        return self._estimates(self.outcomes)

    def scoring(self) -> Scoring:
        """What the reference achieves, with no variant scored and its answers not kept."""
        return Scoring(
            task=self.task.name,
            primary=self.task.primary,
            data=self.task.data,
            reference=self.reference,
            metrics=self._achieved,
            answers="",
            measures={name: metric.measure for name, metric in self._metrics.items()},
            by_class=self.task.by_class(self._reference),
        )

    def begin(self) -> Scoring:
        """The bundle's scoring on this data, with what was scored before on it; started anew on other data. What was
        scored at another confidence than the gate asks for is left out.
        """
        before = self.bundle.manifest.scoring
        task, data = self.task, self.task.data
        if before is not None and (before.task, before.data, before.reference) == (task.name, data, self.reference):
            return before if self._goes_on(before) else self._begun_again(before)
        from safetensors.numpy import save_file

        with self.bundle.adding("scores") as added:
            save_file(_flat(self._reference), added.path / ANSWERS)
            Path(added.path / ANSWERS).chmod(0o644)
        scoring = replace(self.scoring(), answers=f"{added.folder}/{ANSWERS}")
        self.bundle.commit(replace(self.bundle.manifest, scoring=scoring), added.files)
        return scoring

    def _goes_on(self, before: Scoring) -> bool:
        """Whether a scoring of the same data has these metrics and this confidence."""
        return _all_at(before, self.confidence) and self._same_metrics(before)

    def _same_metrics(self, before: Scoring) -> bool:
        """Whether the reference achieves the same in the same metrics: a function of the user's may be another now."""
        now = self._achieved
        return before.metrics.keys() == now.keys() and all(
            np.isclose(before.metrics[name].value, found.value, rtol=1e-6) for name, found in now.items()
        )

    def _begun_again(self, before: Scoring) -> Scoring:
        """A scoring with the reference's intervals at the gate's confidence, and only the scores at that; with none
        where the metrics are others.
        """
        same = self._same_metrics(before)
        scores = {name: score for name, score in before.scores.items() if same and score.at(self.confidence)}
        together = before.together if same and before.together and before.together.at(self.confidence) else None
        scoring = replace(self.scoring(), answers=before.answers, scores=scores, together=together)
        self.bundle.commit(replace(self.bundle.manifest, scoring=scoring))
        return scoring


def _all_at(scoring: Scoring, confidence: float) -> bool:
    """Whether all intervals of a scoring have this confidence."""
    scores = [*scoring.scores.values(), *([scoring.together] if scoring.together else [])]
    return all(score.at(confidence) for score in scores) and all(
        x.confidence == confidence for x in scoring.metrics.values()
    )


def _flat(answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
    """Answers by component as the arrays of one file: ``image`` is the only answer of that component, ``image.boxes``
    one of several.
    """
    return {
        component if name == ANSWER else f"{component}.{name}": np.ascontiguousarray(array)
        for component, arrays in answers.items()
        for name, array in arrays.items()
    }


def _by_component(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """What :func:`_flat` was given."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, array in arrays.items():
        component, _, name = path.partition(".")
        found.setdefault(component, {})[name or ANSWER] = array
    return found


def score_component(scorer: Scorer, component: Component, *, again: bool = False) -> None:
    """Score every variant of a component that runs here, and was not scored here before with these files: what
    disagrees with PyTorch is not chosen, but what it costs is worth knowing.
    """
    bundle = scorer.bundle
    for variant in bundle.manifest.variants_of(component.name):
        if runs_here(bundle, variant):
            score_variant(scorer, variant, again=again)


def score_variant(scorer: Scorer, variant: Variant, *, again: bool = False) -> Score:
    """Score one variant, or return what was found before where it still holds."""
    scoring = scorer.begin()
    before = score_here(scorer.bundle, variant)
    if before and not again:
        return before
    found = scorer.score({variant.component: variant})
    scoring = replace(scoring, scores={**scoring.scores, variant.name: found})
    scorer.bundle.commit(replace(scorer.bundle.manifest, scoring=scoring))
    return found


def score_here(bundle: Bundle, variant: Variant) -> Score | None:
    """What the variant scored with these files, this runtime's release and this processor, at the confidence that the
    gate asks for; None where it was not.
    """
    scoring = bundle.manifest.scoring
    found = scoring.scores.get(variant.name) if scoring else None
    if found is None or variant.failure or not found.at(bundle.manifest.gate.interval):
        return None
    here = provenance(bundle, variant)
    return found if found.provenance.holds(here.machine, here.runtime, here.files) else None


def record_together(scorer: Scorer, variants: Mapping[str, Variant]) -> Score:
    """Score variants as they serve, one for each component, and put it into the manifest."""
    found = scorer.score(variants)
    scorer.bundle.commit(replace(scorer.bundle.manifest, scoring=replace(scorer.begin(), together=found)))
    return found
