"""Jobs that score what is there: a bundle's variants, or a file of predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torchlift.bundle import Bundle
from torchlift.errors import InputError
from torchlift.evidence import Gate, Interval
from torchlift.jobs.options import JobOptions
from torchlift.jobs.scoring import open_scorer, plain_scorer, require_data, required_task
from torchlift.manifest import Manifest
from torchlift.progress import SILENT, Progress
from torchlift.prove.verify import proven_here, runs_here
from torchlift.stages.choose import choose_all
from torchlift.stages.score import OpenReference, Scorer, score_component
from torchlift.staging import writing
from torchlift.storage import storage_errors
from torchlift.tasks.statistics import estimate


def score_bundle(
    path: Path,
    options: JobOptions,
    references: OpenReference | None = None,
    progress: Progress = SILENT,
    write: Path | None = None,
) -> Manifest:
    """Score every variant that runs here on the model's task, and choose again among what was measured.

    ``write`` is a folder for the answers of the chosen variants in the formats of the task's own scripts.
    """
    with writing(path, progress) as bundle:
        require_data(options)
        scorer = open_scorer(bundle, options, references, progress)
        assert scorer is not None
        _require_writable(scorer, write)
        for component in bundle.manifest.components:
            score_component(scorer, component, again=True)
        if bundle.manifest.benchmarks.keys() >= {c.name for c in bundle.manifest.components}:
            choose_all(bundle, scorer)
        _save(scorer, write)
    return bundle.manifest


def report_bundle(
    path: Path,
    options: JobOptions,
    references: OpenReference | None = None,
    progress: Progress = SILENT,
    write: Path | None = None,
) -> Manifest:
    """What :func:`score_bundle` finds, for data that shall decide nothing: the bundle stays as it is, the manifest that
    is returned has the scores.
    """
    bundle = Bundle.open(path, progress)
    scorer = plain_scorer(bundle, options, references, progress)
    _require_writable(scorer, write)
    ours = [v for v in bundle.manifest.variants if runs_here(bundle, v)]
    scores = {v.name: scorer.score({v.component: v}) for v in ours}
    chosen = {name: bundle.manifest.variant(choice.variant) for name, choice in bundle.manifest.choices.items()}
    together = scorer.score(chosen) if chosen and all(v.name in scores for v in chosen.values()) else None
    _save(scorer, write)
    return replace(bundle.manifest, scoring=replace(scorer.scoring(), scores=scores, together=together))


def _require_writable(scorer: Scorer, write: Path | None) -> None:
    """Raise what :func:`_require_choices` raises, and StorageError where ``write`` can be no folder."""
    if write is not None:
        _require_choices(scorer)
        with storage_errors(write):
            write.mkdir(parents=True, exist_ok=True)


def _require_choices(scorer: Scorer) -> None:
    """Raise InputError where answers cannot be written: no files of the task's own, or no variant that serves here."""
    scorer.require_files()
    manifest = scorer.bundle.manifest
    for component in scorer.task.components:
        choice = manifest.choices.get(component)
        if choice is None or not proven_here(scorer.bundle, manifest.variant(choice.variant)):
            raise InputError(
                f"no variant of {component} is chosen and verified here",
                remedy=f"Run `torchlift build {scorer.bundle.path}` first.",
            )


def _save(scorer: Scorer, folder: Path | None) -> None:
    manifest = scorer.bundle.manifest
    if folder is not None:
        with storage_errors(folder):
            scorer.save(folder, {name: manifest.variant(choice.variant) for name, choice in manifest.choices.items()})


def score_predictions(path: Path, file: Path, options: JobOptions, progress: Progress = SILENT) -> dict[str, Interval]:
    """The metrics of a file of predictions in the format of the task's own scripts, of any origin.

    Raises DataError where it does not fit the data, InputError where the task has no such files.
    """
    task = required_task(Bundle.open(path, progress), options, progress)
    metrics, confidence = {m.name: m for m in task.measures}, (options.gate or Gate()).interval
    outcomes = task.predicted(file, progress)
    return {name: estimate(metrics[name], values, confidence) for name, values in outcomes.items()}
