"""The job that tells which nodes of a variant's graph cost the accuracy, and what to do."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from torchlift.bundle import Bundle
from torchlift.convert.calibration import UnitNoise, collect, noise_by_unit
from torchlift.convert.forms import IntegerConverter
from torchlift.convert.ranges import Feeds
from torchlift.convert.search import Search
from torchlift.evidence import Damage
from torchlift.graph.units import Unit
from torchlift.jobs.options import JobOptions
from torchlift.jobs.scoring import trial_scorer
from torchlift.manifest import Variant, read_manifest
from torchlift.pipelines.pictures import KeptPictures
from torchlift.progress import SILENT, Progress
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


def bisect_bundle(path: Path, name: str, options: JobOptions, progress: Progress = SILENT) -> BisectReport:
    """Rank the nodes of a variant's graph by what their conversion costs. The bundle is not changed."""
    read_manifest(path)  # nothing is written beside what is no bundle
    with locked(path):
        bundle = Bundle.open(path, progress)
        variant = bundle.manifest.variant(name)
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
