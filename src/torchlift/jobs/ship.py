"""The main job: export a model, make every variant that runs here, prove, measure, choose, and write the bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torchlift.backends import backend
from torchlift.bundle import Bundle
from torchlift.errors import ExportError
from torchlift.evidence import Gate
from torchlift.exporter import EXPORTERS, ExportOptions, export_component, export_key
from torchlift.families.base import Model
from torchlift.families.quiet import libraries_quiet
from torchlift.jobs import JobOptions, gate_without_data, make_variants, pairs_of
from torchlift.jobs.peers import elsewhere, peers, reference
from torchlift.jobs.source import AnySource
from torchlift.machine import installed_version
from torchlift.manifest import Manifest
from torchlift.progress import SILENT, Progress
from torchlift.stages import BenchOptions, Materials, plan
from torchlift.stages.bench import check_sizes
from torchlift.staging import staging

_MAKERS = ("torchlift", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True)
class ShipOptions(JobOptions):
    """What each stage is told; ``compiled`` adds torch.compile as a peer. Raises InputError for a gate without data."""

    export: ExportOptions = field(default_factory=ExportOptions)
    compiled: bool = False

    def __post_init__(self) -> None:
        asked = self.gate is not None and (self.gate.within or self.gate.confidence is not None)
        if self.gate is not None and asked and self.data.source is None:
            raise gate_without_data(self.gate)


@libraries_quiet()
def ship(source: AnySource, output: Path, options: ShipOptions | None = None, progress: Progress = SILENT) -> Bundle:
    """Make the bundle at ``output``; what was there stays until the new one is complete.

    Run again after a kill, it goes on from what was finished. Raises TorchliftError.
    """
    options = options or ShipOptions()
    named = plan(options.build, Materials(data=True, samples=True))  # what is not here is an error before the export
    with (
        tempfile.TemporaryDirectory(prefix="torchlift-") as spool,
        _exported(source, output, options.export, _forms(named), progress, options.bench) as bundle,
    ):
        pairs = pairs_of(bundle, options)
        _keep_only(bundle, pairs, _forms(pairs))
        make_variants(
            bundle,
            pairs,
            options,
            progress,
            references=partial(reference, source, options.on),
            peers=partial(
                peers,
                elsewhere(source, bundle, Path(spool), progress),
                on=options.on,
                compiled=options.compiled,
                cuda_graph=options.bench.cuda_graph,
            ),
        )
    return Bundle(output, bundle.manifest)


@libraries_quiet()
def export(
    source: AnySource,
    output: Path,
    options: ExportOptions | None = None,
    progress: Progress = SILENT,
    *,
    forms: Collection[str] = (),
) -> Bundle:
    """Make a bundle that holds the ONNX graphs, the goldens and the assets, and no variant yet. ``forms`` are exported
    besides: ``("program",)`` adds each component's torch.export program.

    Raises ExportError for a form that no export makes.
    """
    for form in forms:
        if form not in EXPORTERS:
            raise ExportError(f"no export makes the form {form!r}", remedy=f"Those are {', '.join(EXPORTERS)}.")
    with _exported(source, output, options or ExportOptions(), forms, progress) as bundle:
        _keep_only(bundle, (), forms)
    return Bundle(output, bundle.manifest)


@contextmanager
def _exported(
    source: AnySource,
    output: Path,
    options: ExportOptions,
    forms: Iterable[str],
    progress: Progress,
    bench: BenchOptions | None = None,
) -> Iterator[Bundle]:
    """The bundle with what was exported. Sizes of ``bench`` that a component does not take are an error as soon as its
    signature is known.
    """
    with progress.stage(f"read {source.title}"):
        model = source.load()
    for said in model.notes:
        progress.note(said)
    for name in model.component_names:
        declared = model.declared(name)
        if declared is not None and bench is not None:
            check_sizes(declared, bench)
    empty = Manifest(
        name=model.name,
        family=model.family,
        key=model.key,
        settings=dict(model.settings),
        pipeline=model.pipeline,
        made_with={name: version for name in _MAKERS if (version := installed_version(name))},
    )
    with staging(output, empty, progress) as bundle:
        _write_assets(bundle, model)
        done = {c.name: c.key for c in bundle.manifest.components}
        for name in model.component_names:
            if done.get(name) == export_key(model, name, options):
                progress.note(f"{name} was exported before: kept")
            else:
                export_component(model, name, bundle, options, progress)
            if bench is not None:
                check_sizes(bundle.manifest.component(name).signature, bench)
            program = not bundle.manifest.component(name).model
            for form in (form for form in EXPORTERS if form in forms and not program):
                EXPORTERS[form](model, name, bundle, progress)
        yield bundle


def _forms(pairs: Sequence[tuple[str, str]]) -> set[str]:
    """The forms of the graphs that (backend, recipe) pairs are built from, by name."""
    return {backend(name).recipe(recipe).form.name for name, recipe in pairs}


def _keep_only(bundle: Bundle, pairs: Sequence[tuple[str, str]], forms: Collection[str]) -> None:
    """Forget what a run that was cut off made, and what this run is not asked for."""
    manifest = bundle.manifest
    without = {component.name for component in manifest.components if not component.model}
    graphs = tuple(g for g in manifest.graphs if g.form in forms or g.component in without)
    variants = tuple(v for v in manifest.variants if (v.backend, v.recipe) in pairs or v.reserve)
    if (graphs, variants) != (manifest.graphs, manifest.variants):
        manifest = replace(manifest, graphs=graphs, variants=variants, benchmarks={}, choices={})
    kept = replace(manifest, gate=Gate())
    if kept != bundle.manifest:
        bundle.commit(kept)


def _write_assets(bundle: Bundle, model: Model) -> None:
    if not model.assets or bundle.manifest.assets:
        return
    with bundle.adding("assets") as added:
        for file, content in model.assets.values():
            (added.path / file).write_bytes(content)
    paths = {role: f"{added.folder}/{file}" for role, (file, _) in model.assets.items()}
    bundle.commit(replace(bundle.manifest, assets=paths), added.files)
