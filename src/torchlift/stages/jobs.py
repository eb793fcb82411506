"""The jobs: stages put together, on a bundle that is being made or one that is there. None needs torch."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from torchlift.backends import backend
from torchlift.bundle import Bundle, locked
from torchlift.datasets import ReadOptions
from torchlift.datasets.results import OTHER, PREDICTED, read_predictions, side_of
from torchlift.errors import InputError
from torchlift.evidence import ROUNDING, Choice, Gate, Interval
from torchlift.graph.scales import SCALES
from torchlift.graph.units import Unit
from torchlift.manifest import SOURCE_FORM, Component, Manifest, Variant
from torchlift.measure.bisect import Search
from torchlift.measure.calibration import UnitNoise, collect, noise_by_unit
from torchlift.measure.latency import Contender
from torchlift.measure.verify import VerifyOptions, proven_here, runs_here
from torchlift.progress import SILENT, Progress
from torchlift.stages.bench import BenchOptions, bench_component
from torchlift.stages.build import build_and_verify, verify_all
from torchlift.stages.choose import choose
from torchlift.stages.convert import ConvertOptions, convert_component
from torchlift.stages.forms import IntegerConverter
from torchlift.stages.plan import BuildOptions, Materials, plan
from torchlift.stages.repair import RepairOptions, Workbench, find_culprits, repair
from torchlift.stages.samples import (
    CalibrationData,
    Feeds,
    Samples,
    data_as_samples,
    goldens_as_samples,
    train_split,
)
from torchlift.stages.score import OpenReference, Scorer, record_together, score_component
from torchlift.tasks import RetrievalTask, Task, metric_of, open_task
from torchlift.tasks.statistics import estimate

DEFAULT_DROP = 1.0
"""Points of a task's primary metric that may be lost where nothing was said."""

_TRIAL_SAMPLES = 256
"""Samples that a graph is tried on in a search, unless their number is asked for."""

_NOISE_SAMPLES = 32
"""Samples that the noise of activations is measured on."""

Peers = Callable[[str], Sequence[Contender]]
"""What a component's variants are measured against, by the component's name."""


@dataclass(frozen=True)
class DataOptions:
    """The data that variants are scored on, and the data that they are calibrated on: a path, and what of it to read.

    Without ``calibration`` the split ``train`` of the data to score is taken, where there is one.
    """

    path: Path | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    calibration: CalibrationData | None = None


@dataclass(frozen=True)
class JobOptions:
    """What each stage is told. Without a ``gate``, or limits in it, the bundle's own hold, or with data the default."""

    build: BuildOptions = field(default_factory=BuildOptions)
    data: DataOptions = field(default_factory=DataOptions)
    convert: ConvertOptions = field(default_factory=ConvertOptions)
    verify: VerifyOptions = field(default_factory=VerifyOptions)
    gate: Gate | None = None
    bench: BenchOptions = field(default_factory=BenchOptions)

    def calibration(self) -> CalibrationData | None:
        """What to calibrate on, and how much of it; None where there is nothing."""
        data, given, limit = self.data, self.data.calibration, self.convert.calibration.samples
        if given is not None:
            found = train_split(given.path, given.read, "") if not given.read.split else None
            found = found or given
        else:
            found = train_split(data.path, replace(data.read, split="", limit=None), data.read.split)
        if found is None:
            return None
        return replace(found, read=replace(found.read, limit=min(found.read.limit or limit, limit)))


def no_peers(component: str) -> Sequence[Contender]:
    """Measure variants against each other only."""
    return ()


def make_variants(
    bundle: Bundle,
    pairs: Sequence[tuple[str, str]],
    options: JobOptions,
    progress: Progress = SILENT,
    *,
    references: OpenReference | None = None,
    peers: Peers = no_peers,
) -> None:
    """Convert, build, verify, score, mend, measure and choose; ``references`` opens PyTorch where it is at hand."""
    forms = list(dict.fromkeys(backend(n).recipes[r] for n, r in pairs))
    _check_kept(bundle, options)
    scorer = open_scorer(bundle, options, references, progress)
    samples = samples_of(bundle, options, progress)
    for component in bundle.manifest.components:
        convert_component(bundle, component, forms, samples, options.convert, progress)
    reserve = _reserve(bundle, pairs)
    build_and_verify(bundle, [*pairs, *reserve], options.verify, progress)
    _mark(bundle, {**dict.fromkeys(pairs, False), **dict.fromkeys(reserve, True)})
    for component in bundle.manifest.components:
        if scorer is not None:
            score_component(scorer, component)
        _mend(bundle, component, scorer, references, options, progress)
        if scorer is not None:
            score_component(scorer, component)
    bench_and_choose(bundle, peers, options.bench, progress, scorer=scorer)


def _check_kept(bundle: Bundle, options: JobOptions) -> None:
    names = [component.name for component in bundle.manifest.components]
    for text in options.convert.keep:
        if text.partition(":")[0] not in names:
            raise InputError(f"--keep {text} names no component", remedy=f"The components are {', '.join(names)}.")


def _reserve(bundle: Bundle, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What is made besides, to serve where nothing that was asked for holds the gate."""
    if not bundle.manifest.gate.within or any(recipe == "fp32" for _, recipe in pairs):
        return []
    found = (pairs[0][0], "fp32")
    others = [v for v in bundle.manifest.variants if v.precision == "fp32" and (v.backend, v.recipe) != found]
    return [] if any(not v.reserve and not v.failure for v in others) else [found]


def _mark(bundle: Bundle, marks: Mapping[tuple[str, str], bool]) -> None:
    """Note which variants, by backend and recipe, are there in reserve."""
    variants = tuple(replace(v, reserve=marks.get((v.backend, v.recipe), v.reserve)) for v in bundle.manifest.variants)
    if variants != bundle.manifest.variants:
        bundle.commit(replace(bundle.manifest, variants=variants))


def open_scorer(
    bundle: Bundle, options: JobOptions, references: OpenReference | None, progress: Progress
) -> Scorer | None:
    """Read the data, ask the reference, and hold the bundle to the gate that is asked for, from now on; where none is,
    to a drop of ``DEFAULT_DROP`` of the task's primary metric.

    Raises DataError, also for a metric that the task lacks, InputError for a gate without data.
    """
    task = open_task(bundle, options.data.path, options.data.read, progress) if options.data.path else None
    gate = _gate(bundle, options, task)
    scorer = Scorer(bundle, task, references, options.bench.latency.threads, progress) if task else None
    if gate != bundle.manifest.gate:
        bundle.commit(replace(bundle.manifest, gate=gate))
    return scorer


def _gate(bundle: Bundle, options: JobOptions, task: Task | None) -> Gate:
    before = bundle.manifest.gate
    gate = options.gate or before
    if task is None:
        if gate.within not in ({}, before.within):
            raise gate_without_data(gate)
        return replace(gate, within=before.within)
    gate = replace(gate, within=gate.within or before.within or {task.primary: DEFAULT_DROP})
    for metric in gate.within:
        metric_of(task, metric)
    return gate


def gate_without_data(gate: Gate) -> InputError:
    return InputError(
        f"{gate} cannot be held without data",
        remedy="Give --data with a data set of the model's task, or leave --within out.",
    )


def samples_of(bundle: Bundle, options: JobOptions, progress: Progress) -> Samples:
    """Where the samples come from that ranges are found on: without calibration data, what FP16 must hold is looked up
    in the data to score, or in the goldens.
    """
    calibration = options.calibration()
    if calibration is not None:
        return data_as_samples(bundle, calibration, progress)
    if options.data.path is not None:
        limit = min(options.data.read.limit or options.convert.calibration.samples, options.convert.calibration.samples)
        scored = CalibrationData(options.data.path, replace(options.data.read, limit=limit))
        return data_as_samples(bundle, scored, progress, given=False)
    return goldens_as_samples(bundle)


def _mend(
    bundle: Bundle,
    component: Component,
    scorer: Scorer | None,
    references: OpenReference | None,
    options: JobOptions,
    progress: Progress,
) -> None:
    """Mend each form by the first of its variants that can run here."""
    settings = RepairOptions(_metric(bundle, scorer), options.convert.evaluations, options.bench.latency.threads)
    fewer = functools.cache(lambda: _on_fewer(scorer, references, options, progress))
    seen = {SOURCE_FORM}
    for variant in bundle.manifest.variants_of(component.name):
        if variant.form not in seen and not variant.failure and backend(variant.backend).available().ok:
            seen.add(variant.form)
            repair(bundle, variant, scorer, fewer, options.verify, settings, progress)


def _on_fewer(
    scorer: Scorer | None, references: OpenReference | None, options: JobOptions, progress: Progress
) -> Scorer | None:
    """The same task on as many samples as a trial is worth, unless their number was asked for."""
    path, read = options.data.path, options.data.read
    if scorer is None or path is None or read.limit or max(scorer.task.data.samples.values()) <= _TRIAL_SAMPLES:
        return scorer
    task = open_task(scorer.bundle, path, replace(read, limit=_TRIAL_SAMPLES), progress)
    return Scorer(scorer.bundle, task, references, options.bench.latency.threads, progress)


def _metric(bundle: Bundle, scorer: Scorer | None) -> str:
    """What the search for culprits looks at: the gate's first metric, else the task's primary."""
    if scorer is None:
        return ""
    return next((metric for metric in bundle.manifest.gate.within if metric in scorer.outcomes), scorer.task.primary)


def bench_and_choose(
    bundle: Bundle,
    peers: Peers,
    options: BenchOptions,
    progress: Progress = SILENT,
    *,
    scorer: Scorer | None = None,
    again: bool = False,
) -> None:
    """Measure every component's variants with its peers, and choose."""
    for component in bundle.manifest.components:
        bench_component(bundle, component, peers(component.name), options, progress, again=again)
    choose_all(bundle, scorer)


def choose_all(bundle: Bundle, scorer: Scorer | None = None) -> None:
    """Choose for every component among what was measured, and score the choices together.

    Where each holds the gate and together they do not, the one that loses most by itself makes room for the next best.
    Without a scorer, choices that were not scored together before are taken to lose the sum of what each loses.
    """
    before, excluded = bundle.manifest.choices, dict[str, str]()
    while True:
        benchmarks = bundle.manifest.benchmarks
        choices = {c.name: choose(bundle, c, benchmarks[c.name], excluded) for c in bundle.manifest.components}
        breach = _breach_together(bundle, scorer, before, choices)
        worst = _worst(bundle, choices) if breach else None
        if worst is None:
            return
        excluded[worst] = f"with the other components' choices, {breach}"


def _breach_together(
    bundle: Bundle, scorer: Scorer | None, before: Mapping[str, Choice], now: Mapping[str, Choice]
) -> str:
    """Why choices may not serve together; notes their score, or that there is none."""
    gate = bundle.manifest.gate
    if scorer is not None:
        variants = {name: bundle.manifest.variant(choice.variant) for name, choice in now.items()}
        return gate.breach(record_together(scorer, variants))
    scoring = bundle.manifest.scoring
    if scoring is None or {n: c.variant for n, c in before.items()} == {n: c.variant for n, c in now.items()}:
        return ""
    bundle.commit(replace(bundle.manifest, scoring=replace(scoring, together=None)))
    for metric, limit in gate.within.items():
        drops = [scoring.scores[c.variant].drops for c in now.values() if c.variant in scoring.scores]
        lost = [drop[metric].value for drop in drops if metric in drop]
        if sum(lost) > limit + ROUNDING and len(lost) > 1:
            return f"{metric} may drop by {sum(lost):.2f} (the sum), at most {limit:g} may"
    return ""


def _worst(bundle: Bundle, choices: Mapping[str, Choice]) -> str | None:
    """The chosen variant that loses most by itself, as a share of what may be lost; None where none loses anything."""
    scores = bundle.manifest.scoring.scores if bundle.manifest.scoring else {}
    limits = bundle.manifest.gate.within

    def loss(name: str) -> float:
        drops = scores[name].drops
        return max((drops[m].value / max(limit, 1e-6) for m, limit in limits.items() if m in drops), default=0.0)

    lossy = [choice.variant for choice in choices.values() if choice.held and choice.variant in scores]
    worst = max(lossy, key=loss, default=None)
    return worst if worst is not None and loss(worst) > 0 else None


def build_bundle(path: Path, options: JobOptions | None = None, progress: Progress = SILENT) -> Manifest:
    """Make the variants that this machine runs from a bundle's own graphs, verify, score where there is data, measure,
    choose.
    """
    options = options or JobOptions()
    with locked(path):
        bundle = Bundle.open(path, progress)
        pairs = plan(options.build, materials_of(options, bundle.manifest))
        make_variants(bundle, pairs, options, progress)
    return bundle.manifest


def materials_of(options: JobOptions, manifest: Manifest | None = None) -> Materials:
    """What there is to make variants from; a bundle may have graphs that were calibrated before."""
    graphs = {g.form for g in manifest.graphs if not g.failure} if manifest else set()
    learnt = manifest is not None and any(PurePosixPath(path).name == SCALES for path in manifest.files)
    return Materials(
        data=options.data.path is not None or bool(graphs),
        learnt=learnt,
        samples=options.calibration() is not None,
        graphs=frozenset(graphs),
    )


def verify_bundle(path: Path, options: VerifyOptions, progress: Progress = SILENT) -> Manifest:
    """Verify every variant of a bundle on this machine, whether or not it was before."""
    with locked(path):
        bundle = Bundle.open(path, progress)
        verify_all(bundle, bundle.manifest.variants, options, progress, again=True)
    return bundle.manifest


def bench_bundle(
    path: Path, options: BenchOptions | None = None, peers: Peers = no_peers, progress: Progress = SILENT
) -> Manifest:
    """Measure a bundle's variants again, and choose again by the bundle's gate."""
    with locked(path):
        bundle = Bundle.open(path, progress)
        bench_and_choose(bundle, peers, options or BenchOptions(), progress, again=True)
    return bundle.manifest


def score_bundle(
    path: Path,
    options: JobOptions,
    references: OpenReference | None = None,
    progress: Progress = SILENT,
    write: Path | None = None,
) -> Manifest:
    """Score every variant that is proven here on the model's task, and choose again among what was measured.

    ``write`` is a folder for the answers of the chosen variants in the formats of the task's own scripts.
    """
    with locked(path):
        bundle = Bundle.open(path, progress)
        _require_data(options)
        scorer = open_scorer(bundle, options, references, progress)
        assert scorer is not None
        if write is not None:
            _require_choices(scorer)
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
    _require_data(options)
    bundle = Bundle.open(path, progress)
    scorer = _scorer(bundle, options, references, progress)
    if write is not None:
        _require_choices(scorer)
    ours = [v for v in bundle.manifest.variants if runs_here(bundle, v)]
    scores = {v.name: scorer.score({v.component: v}) for v in ours}
    chosen = {name: bundle.manifest.variant(choice.variant) for name, choice in bundle.manifest.choices.items()}
    together = scorer.score(chosen) if chosen and all(v.name in scores for v in chosen.values()) else None
    _save(scorer, write)
    return replace(bundle.manifest, scoring=replace(scorer.scoring(), scores=scores, together=together))


def _require_data(options: JobOptions) -> None:
    if options.data.path is None:
        raise InputError("there is no data to score on", remedy="Give --data.")


def _scorer(bundle: Bundle, options: JobOptions, references: OpenReference | None, progress: Progress) -> Scorer:
    """The task on all of the data; the bundle's gate stays as it is."""
    assert options.data.path is not None
    task = open_task(bundle, options.data.path, options.data.read, progress)
    return Scorer(bundle, task, references, options.bench.latency.threads, progress)


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
        scorer.save(folder, {name: manifest.variant(choice.variant) for name, choice in manifest.choices.items()})


def score_predictions(path: Path, file: Path, options: JobOptions, progress: Progress = SILENT) -> dict[str, Interval]:
    """The metrics, in percent, of a file of predictions in the format of Chinese-CLIP's scripts, of any origin.

    Raises DataError where it does not fit the data, InputError where the data is not for retrieval.
    """
    _require_data(options)
    assert options.data.path is not None
    task = open_task(Bundle.open(path, progress), options.data.path, options.data.read, progress)
    if not isinstance(task, RetrievalTask):
        raise InputError(f"{task.name} has no files of predictions", remedy="Give --data of retrieval.")
    side = side_of(file)
    queries, gallery = (dict.fromkeys(task.ids[x]) for x in (side, OTHER[side]))
    predictions = read_predictions(file, side, queries, gallery, min(PREDICTED, len(gallery)))
    return {metric: estimate(values) for metric, values in task.outcomes_of(side, predictions).items()}


@dataclass(frozen=True)
class BisectReport:
    """What a search for the costly nodes of a variant found, in ``seconds``. ``measure`` says what the damage is,
    ``fix`` are options that keep the worst nodes in FP32, ``noise`` is empty but for INT8.
    """

    variant: str
    measure: str
    search: Search[Unit]
    seconds: float
    fix: str
    noise: tuple[UnitNoise, ...] = ()


def bisect_bundle(path: Path, name: str, options: JobOptions, progress: Progress = SILENT) -> BisectReport:
    """Rank the nodes of a variant's graph by what their conversion costs. The bundle is not changed."""
    with locked(path):
        bundle = Bundle.open(path, progress)
        variant = bundle.manifest.variant(name)
        scorer = _trial_scorer(bundle, options, progress)
        bench = Workbench(bundle, variant, scorer, _metric(bundle, scorer), options.bench.latency.threads)
        start = time.monotonic()
        search = find_culprits(bench, options.convert.evaluations, progress)
        seconds = time.monotonic() - start
        return BisectReport(
            name, bench.measure, search, seconds, _fix(variant, search), _noise(bench, options, progress)
        )


def _trial_scorer(bundle: Bundle, options: JobOptions, progress: Progress) -> Scorer | None:
    """The task on as many samples as a trial is worth; the bundle's gate stays as it is."""
    if options.data.path is None:
        return None
    return _on_fewer(_scorer(bundle, options, None, progress), None, options, progress)


def _noise(bench: Workbench, options: JobOptions, progress: Progress) -> tuple[UnitNoise, ...]:
    """The signal-to-noise of every quantised node, the worst first; nothing for a form without integers."""
    converter = bench.converter
    if not isinstance(converter, IntegerConverter):
        return ()
    report = converter.report()
    names = list(dict.fromkeys(unit.activation for unit in report.quantized if unit.input is not None))
    found = collect(converter.source, names, _few_samples(bench, options, progress), _NOISE_SAMPLES, progress=progress)
    lines = noise_by_unit(report, found)
    return tuple(
        sorted(lines, key=lambda line: min(line.weight, line.weight if line.activation is None else line.activation))
    )


def _few_samples(bench: Workbench, options: JobOptions, progress: Progress) -> Feeds:
    if options.data.path is None:
        return goldens_as_samples(bench.bundle).of(bench.component)
    few = CalibrationData(options.data.path, replace(options.data.read, limit=_NOISE_SAMPLES))
    return data_as_samples(bench.bundle, few, progress).of(bench.component)


def _fix(variant: Variant, search: Search[Unit]) -> str:
    """Options that keep in FP32 what does half of the damage, by module where a module is one node."""
    if search.total <= 0:
        return ""
    worst: list[Unit] = []
    found = 0.0
    for finding in search.findings:
        if found >= search.total / 2:
            break
        worst += finding.items
        found += finding.damage
    names = dict.fromkeys(unit.module or unit.node for unit in worst)
    return " ".join(f"--keep {variant.component}:{name}" for name in names)
