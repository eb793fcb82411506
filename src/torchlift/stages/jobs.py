"""The jobs: stages put together, on a bundle that is being made or one that is there. None needs torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from torchlift.backends import backend
from torchlift.bundle import Bundle, locked
from torchlift.datasets import ReadOptions
from torchlift.datasets.results import OTHER, read_predictions, side_of
from torchlift.errors import InputError
from torchlift.evidence import Choice, Gate, Interval, Score
from torchlift.graph.scales import SCALES
from torchlift.graph.units import Unit
from torchlift.manifest import SOURCE_FORM, Component, Manifest, Variant
from torchlift.measure.bisect import Search
from torchlift.measure.calibration import UnitNoise, collect, noise_by_unit
from torchlift.measure.latency import Contender
from torchlift.measure.verify import VerifyOptions
from torchlift.progress import SILENT, Progress
from torchlift.stages.bench import BenchOptions, bench_component
from torchlift.stages.build import build_and_verify, verify_all
from torchlift.stages.choose import choose
from torchlift.stages.convert import ConvertOptions, convert_component
from torchlift.stages.forms import IntegerConverter
from torchlift.stages.plan import BuildOptions, Materials, plan
from torchlift.stages.repair import RepairOptions, Workbench, find_culprits, repair
from torchlift.stages.samples import CalibrationData, Feeds, Samples, data_as_samples, goldens_as_samples
from torchlift.stages.score import OpenReference, Scorer, record_together, score_component
from torchlift.tasks import RetrievalTask, metric_of, open_task
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

    Without ``calibration`` the split ``train`` beside the one that is scored is taken, where there is one.
    """

    path: Path | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    calibration: CalibrationData | None = None


@dataclass(frozen=True)
class JobOptions:
    """What each stage is told; without a ``gate`` the bundle's own holds, or with data the default."""

    build: BuildOptions = field(default_factory=BuildOptions)
    data: DataOptions = field(default_factory=DataOptions)
    convert: ConvertOptions = field(default_factory=ConvertOptions)
    verify: VerifyOptions = field(default_factory=VerifyOptions)
    gate: Gate | None = None
    bench: BenchOptions = field(default_factory=BenchOptions)

    def __post_init__(self) -> None:
        if self.gate is not None and self.gate.within and self.data.path is None:
            raise InputError(
                f"{self.gate} cannot be held without data",
                remedy="Give --data with a data set of the model's task, or leave --within out.",
            )


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
    reserve = _reserve(bundle, pairs)
    samples = samples_of(bundle, options, progress)
    for component in bundle.manifest.components:
        convert_component(bundle, component, forms, samples, options.convert, progress)
    build_and_verify(bundle, [*pairs, *reserve], options.verify, progress)
    for component in bundle.manifest.components:
        if scorer is not None:
            score_component(scorer, component)
        _mend(bundle, component, scorer, references, options, progress)
    bench_and_choose(bundle, peers, options.bench, progress, scorer=scorer, reserve=reserve)


def _check_kept(bundle: Bundle, options: JobOptions) -> None:
    names = [component.name for component in bundle.manifest.components]
    for text in options.convert.keep:
        if text.partition(":")[0] not in names:
            raise InputError(f"--keep {text} names no component", remedy=f"The components are {', '.join(names)}.")


def _reserve(bundle: Bundle, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What is made besides, to serve where nothing that was asked for holds the gate."""
    if not bundle.manifest.gate.within or any(recipe == "fp32" for _, recipe in pairs):
        return []
    return [(pairs[0][0], "fp32")]


def open_scorer(
    bundle: Bundle, options: JobOptions, references: OpenReference | None, progress: Progress
) -> Scorer | None:
    """Read the data, ask the reference, and hold the bundle to the gate that is asked for, from now on; where none is,
    to a drop of ``DEFAULT_DROP`` of the task's primary metric.

    Raises DataError, and InputError for a metric that the task lacks.
    """
    task = open_task(bundle, options.data.path, options.data.read, progress) if options.data.path else None
    gate = options.gate or bundle.manifest.gate
    if task is not None and not gate.within:
        gate = replace(gate, within={task.primary: DEFAULT_DROP})
    for metric in gate.within if task else ():
        metric_of(task, metric)  # type: ignore[arg-type]
    if gate != bundle.manifest.gate:
        bundle.commit(replace(bundle.manifest, gate=gate))
    if task is None:
        return None
    return Scorer(bundle, task, references, options.bench.latency.threads, progress)


def samples_of(bundle: Bundle, options: JobOptions, progress: Progress) -> Samples:
    """Where the samples come from that ranges are found on: without calibration data, what FP16 must hold is looked up
    in the data to score, or in the goldens.
    """
    if options.data.calibration is not None:
        return data_as_samples(bundle, options.data.calibration, progress)
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
    return next(iter(bundle.manifest.gate.within), scorer.task.primary if scorer else "")


def bench_and_choose(
    bundle: Bundle,
    peers: Peers,
    options: BenchOptions,
    progress: Progress = SILENT,
    *,
    scorer: Scorer | None = None,
    reserve: Sequence[tuple[str, str]] = (),
    again: bool = False,
) -> None:
    """Measure every component's variants with its peers, and choose."""
    for component in bundle.manifest.components:
        bench_component(bundle, component, peers(component.name), options, progress, again=again)
    choose_all(bundle, scorer, reserve)


def choose_all(bundle: Bundle, scorer: Scorer | None = None, reserve: Sequence[tuple[str, str]] = ()) -> None:
    """Choose for every component among what was measured, and score the choices together.

    Where each holds the gate and together they do not, the one that loses most by itself makes room for the next best.
    """
    excluded: dict[str, str] = {}
    components = bundle.manifest.components
    kept = {f"{c.name}/{name}/{recipe}" for c in components for name, recipe in reserve}
    while True:
        choices = {c.name: choose(bundle, c, bundle.manifest.benchmarks[c.name], excluded, kept) for c in components}
        together = _together(bundle, scorer, choices)
        breach = bundle.manifest.gate.breach(together) if together else ""
        worst = _worst(bundle, choices) if breach else None
        if worst is None:
            return
        excluded[worst] = f"with the other components' choices, {breach}"


def _together(bundle: Bundle, scorer: Scorer | None, choices: dict[str, Choice]) -> Score | None:
    if scorer is None:
        return None
    return record_together(scorer, {name: bundle.manifest.variant(choice.variant) for name, choice in choices.items()})


def _worst(bundle: Bundle, choices: dict[str, Choice]) -> str | None:
    """The chosen variant that loses most by itself, as a share of what may be lost; None where none loses anything."""
    scores = bundle.manifest.scoring.scores if bundle.manifest.scoring else {}
    limits = bundle.manifest.gate.within

    def loss(name: str) -> float:
        return max(scores[name].drops[metric].value / max(limit, 1e-6) for metric, limit in limits.items())

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
        data=options.data.path is not None or bool(graphs) or learnt,
        learnt=learnt,
        samples=options.data.calibration is not None,
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
        scorer = open_scorer(bundle, options, references, progress)
        if scorer is None:
            raise InputError("there is no data to score on", remedy="Give --data.")
        for component in bundle.manifest.components:
            score_component(scorer, component, again=True)
        if bundle.manifest.benchmarks.keys() >= {c.name for c in bundle.manifest.components}:
            choose_all(bundle, scorer)
        if write is not None:
            scorer.save(write, {c: bundle.manifest.variant(x.variant) for c, x in bundle.manifest.choices.items()})
    return bundle.manifest


def score_predictions(path: Path, file: Path, options: JobOptions, progress: Progress = SILENT) -> dict[str, Interval]:
    """The metrics, in percent, of a file of predictions in the format of Chinese-CLIP's scripts, of any origin.

    Raises DataError where it does not fit the data, InputError where the data is not for retrieval.
    """
    if options.data.path is None:
        raise InputError("there is no data to score on", remedy="Give --data.")
    task = open_task(Bundle.open(path, progress), options.data.path, options.data.read, progress)
    if not isinstance(task, RetrievalTask):
        raise InputError(f"{task.name} has no files of predictions", remedy="Give --data of retrieval.")
    side = side_of(file)
    predictions = read_predictions(file, side, task.ids[side], task.ids[OTHER[side]])
    return {metric: estimate(values) for metric, values in task.outcomes_of(side, predictions).items()}


@dataclass(frozen=True)
class BisectReport:
    """What a search for the costly nodes of a variant found. ``measure`` says what the damage is, ``fix`` are options
    that keep the worst nodes in FP32, ``noise`` is empty but for INT8.
    """

    variant: str
    measure: str
    search: Search[Unit]
    fix: str
    noise: tuple[UnitNoise, ...] = ()


def bisect_bundle(path: Path, name: str, options: JobOptions, progress: Progress = SILENT) -> BisectReport:
    """Rank the nodes of a variant's graph by what their conversion costs. The bundle is not changed."""
    with locked(path):
        bundle = Bundle.open(path, progress)
        variant = bundle.manifest.variant(name)
        scorer = _on_fewer(open_scorer(bundle, options, None, progress), None, options, progress)
        bench = Workbench(bundle, variant, scorer, _metric(bundle, scorer), options.bench.latency.threads)
        search = find_culprits(bench, options.convert.evaluations, progress)
        return BisectReport(name, bench.measure, search, _fix(variant, search), _noise(bench, options, progress))


def _noise(bench: Workbench, options: JobOptions, progress: Progress) -> tuple[UnitNoise, ...]:
    """The signal-to-noise of every quantised node, the worst first; nothing for a form without integers."""
    converter = bench.converter
    if not isinstance(converter, IntegerConverter):
        return ()
    report = converter.report()
    names = list(dict.fromkeys(unit.activation for unit in report.quantized if unit.input is not None))
    found = collect(converter.source, names, _few_samples(bench, options, progress), _NOISE_SAMPLES, progress=progress)
    lines = noise_by_unit(report, found)
    return tuple(sorted(lines, key=lambda line: min(line.weight, line.activation or line.weight)))


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
