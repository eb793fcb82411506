"""The job that tells which nodes of a variant cost the accuracy, by conversion or by the runtime itself."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from torchlift.backends import SessionOptions, backend
from torchlift.backends.opening import open_variant
from torchlift.bundle import Bundle
from torchlift.convert.calibration import UnitNoise, collect, noise_by_unit
from torchlift.convert.forms import IntegerConverter
from torchlift.convert.ranges import Feeds
from torchlift.convert.search import Search
from torchlift.errors import InputError
from torchlift.evidence import Damage, Failure, Tolerance
from torchlift.graph.units import Unit
from torchlift.jobs.options import JobOptions
from torchlift.jobs.scoring import trial_scorer
from torchlift.manifest import SOURCE_FORM, Variant, read_manifest
from torchlift.pipelines.pictures import KeptPictures
from torchlift.progress import SILENT, Progress
from torchlift.prove.goldens import load_goldens
from torchlift.prove.inside import Inside
from torchlift.prove.judges import judge_of
from torchlift.prove.numerics import failures, verify_goldens
from torchlift.prove.parting import Parting, find_partings
from torchlift.stages.repair import Workbench, find_culprits
from torchlift.stages.samples import data_as_samples, goldens_as_samples
from torchlift.staging import locked

_NOISE_SAMPLES = 32
"""Samples that the noise of activations is measured on."""


@dataclass(frozen=True)
class BisectReport:
    """What a search for the costly nodes of a variant found, in ``seconds``. ``damage`` says what it is made of,
    ``keep`` names the worst nodes, as the option that keeps them in FP32 takes them, ``noise`` is empty but for INT8.
    """

    variant: str
    damage: Damage
    search: Search[Unit]
    seconds: float
    keep: tuple[str, ...]
    noise: tuple[UnitNoise, ...] = ()


@dataclass(frozen=True)
class PartingReport:
    """Where the runtime of a variant that is built from the FP32 graph parts from that graph, at the golden ``opt``.

    ``answers`` is what is wrong with the variant's own answers there, empty where they are right. ``partings`` are the
    first nodes whose values differ by more than ``tolerance``, of so many ``nodes`` that were compared. Where answers
    are wrong and no node parts, what the runtime fuses is wrong: to look at a tensor keeps it from being fused.
    """

    variant: str
    tolerance: Tolerance
    answers: tuple[Failure, ...]
    nodes: int
    partings: tuple[Parting, ...]
    seconds: float


def bisect_bundle(
    path: Path, name: str, options: JobOptions, progress: Progress = SILENT
) -> BisectReport | PartingReport:
    """Rank the nodes of a variant's graph by what their conversion costs; of one that is built from the FP32 graph, for
    which nothing is converted, find the first nodes that its runtime computes otherwise. The bundle is not changed.
    """
    read_manifest(path)  # nothing is written beside what is no bundle
    with locked(path):
        bundle = Bundle.open(path, progress)
        variant = bundle.manifest.variant(name)
        if variant.form == SOURCE_FORM:
            return _parting(bundle, variant, options, progress)
        pictures = KeptPictures()
        scorer = trial_scorer(bundle, options, progress, pictures)
        bench = Workbench(bundle, variant, scorer, options.on)
        start = time.monotonic()
        search = find_culprits(bench, options.convert.evaluations, progress)
        seconds = time.monotonic() - start
        return BisectReport(
            variant.name,
            bench.damage,
            search,
            seconds,
            _kept(variant, search),
            _noise(bench, options, progress, pictures),
        )


def _parting(bundle: Bundle, variant: Variant, options: JobOptions, progress: Progress) -> PartingReport:
    component, runtime = bundle.manifest.component(variant.component), backend(variant.backend)
    if variant.failure:
        raise InputError(f"{variant.name} was not built: {variant.failure}", remedy="Build it first.")
    if bundle.may_loop(component):
        raise InputError(
            f"{variant.name} is not looked into: its graph has loops, which have other values in each turn",
            remedy="Bisect a component without loops.",
        )
    start = time.monotonic()
    tolerance = options.verify.tolerance(bundle, variant)
    goldens = load_goldens(bundle, component)
    golden = goldens["opt"]
    judge = judge_of(bundle, component, goldens.values(), tolerance, options.on)
    with open_variant(bundle, variant, SessionOptions(options.on)) as session:
        answers = failures(verify_goldens(session.run, [golden], judge), tolerance)
    inside = Inside(bundle.model(component), component.signature)
    found = find_partings(inside, runtime, variant.recipe, golden.inputs, tolerance, options.on, progress)
    seconds = time.monotonic() - start
    return PartingReport(variant.name, tolerance, answers, found.nodes, found.found, seconds)


def _noise(bench: Workbench, options: JobOptions, progress: Progress, pictures: KeptPictures) -> tuple[UnitNoise, ...]:
    """The signal-to-noise of every quantised node, the worst first; nothing for a form without integers."""
    converter = bench.converter
    if not isinstance(converter, IntegerConverter):
        return ()
    report = converter.report()
    names = list(dict.fromkeys(unit.activation for unit in report.quantized if unit.input is not None))
    samples = _few_samples(bench, options, progress, pictures)
    found = collect(converter.source, names, samples, _NOISE_SAMPLES, progress=progress, on=options.on)
    lines = noise_by_unit(report, found)
    return tuple(
        sorted(lines, key=lambda line: min(line.weight, line.weight if line.activation is None else line.activation))
    )


def _few_samples(bench: Workbench, options: JobOptions, progress: Progress, pictures: KeptPictures) -> Feeds:
    if options.data.source is None:
        return goldens_as_samples(bench.bundle).of(bench.component)
    few = replace(options.data.read, limit=_NOISE_SAMPLES)
    samples = data_as_samples(bench.bundle, options.data.source, few, progress, pictures=pictures)
    return samples.of(bench.component)


def _kept(variant: Variant, search: Search[Unit]) -> tuple[str, ...]:
    """What to keep in FP32: what does half of the damage, by module where a module is one node."""
    if search.total <= 0:
        return ()
    worst: list[Unit] = []
    found = 0.0
    for finding in search.findings:
        if found >= search.total / 2:
            break
        worst += finding.items
        found += finding.damage
    names = dict.fromkeys(unit.module or unit.node for unit in worst)
    return tuple(f"{variant.component}:{name}" for name in names)
