"""The main job: export a model, make every variant that runs here, prove, measure, choose, and write the bundle."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torchlift.backends import Session, SessionOptions, backend, module_runtime
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, CheckpointError, ExportError
from torchlift.evidence import Entrant, Gate, Precision
from torchlift.exporter import EXPORTERS, ExportOptions, export_component, export_key
from torchlift.families import family
from torchlift.families.base import LoadOptions, Model
from torchlift.families.reference import open_reference
from torchlift.folder import Folder
from torchlift.jobs import JobOptions, gate_without_data, make_variants, materials_of
from torchlift.machine import HERE, RunOn, installed_version
from torchlift.manifest import Manifest, read_manifest
from torchlift.messages import entrant_text
from torchlift.progress import SILENT, Progress
from torchlift.stages import Materials, plan
from torchlift.staging import staging
from torchlift.timing.latency import Contender

_MAKERS = ("torchlift", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True)
class Source:
    """What to ship: a family's name and where its model is. The same in every process that opens it."""

    family: str
    location: str
    options: LoadOptions = field(default_factory=LoadOptions)

    def load(self) -> Model:
        return family(self.family).load(self.location, self.options)


@dataclass(frozen=True)
class ShipOptions(JobOptions):
    """What each stage is told; ``compiled`` adds torch.compile as a peer. Raises InputError for a gate without data."""

    export: ExportOptions = field(default_factory=ExportOptions)
    compiled: bool = False

    def __post_init__(self) -> None:
        asked = self.gate is not None and (self.gate.within or self.gate.confidence is not None)
        if self.gate is not None and asked and self.data.path is None:
            raise gate_without_data(self.gate)


def ship(source: Source, output: Path, options: ShipOptions | None = None, progress: Progress = SILENT) -> Bundle:
    """Make the bundle at ``output``; what was there stays until the new one is complete.

    Run again after a kill, it goes on from what was finished. Raises TorchliftError.
    """
    options = options or ShipOptions()
    named = plan(options.build, Materials(data=True, samples=True))  # what is not here is an error before the export
    with _exported(source, output, options.export, _forms(named), progress) as bundle:
        pairs = plan(options.build, materials_of(options, bundle.manifest))
        _keep_only(bundle, pairs, _forms(pairs))
        make_variants(
            bundle,
            pairs,
            options,
            progress,
            references=partial(reference, source, options.on),
            peers=partial(peers, source, on=options.on, compiled=options.compiled, cuda_graph=options.bench.cuda_graph),
        )
    return Bundle(output, bundle.manifest)


def export(
    source: Source,
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
    source: Source, output: Path, options: ExportOptions, forms: Iterable[str], progress: Progress
) -> Iterator[Bundle]:
    with progress.stage(f"read {Path(source.location).name}"):
        model = source.load()
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
            for form in (form for form in EXPORTERS if form in forms):
                EXPORTERS[form](model, name, bundle, progress)
        yield bundle


def _forms(pairs: Sequence[tuple[str, str]]) -> set[str]:
    """The forms of the graphs that (backend, recipe) pairs are built from, by name."""
    return {backend(name).recipe(recipe).form.name for name, recipe in pairs}


def _keep_only(bundle: Bundle, pairs: Sequence[tuple[str, str]], forms: Collection[str]) -> None:
    """Forget what a run that was cut off made, and what this run is not asked for."""
    manifest = bundle.manifest
    graphs = tuple(g for g in manifest.graphs if g.form in forms)
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


def source_of(bundle: Path, location: str) -> Source:
    """Where the model of a bundle is, to be loaded with the bundle's own ranges, image size and vocabulary.

    Raises CheckpointError where another model is there.
    """
    manifest = read_manifest(bundle)
    vocabulary = manifest.assets.get("vocabulary")
    options = LoadOptions(
        axes={c.name: {axis.name: axis for axis in c.signature.axes} for c in manifest.components},
        vocabulary=Folder(bundle).place(vocabulary) if vocabulary else None,
        resolution=manifest.settings.get("resolution"),
    )
    source = Source(manifest.family, location, options)
    if source.load().key != manifest.key:
        raise CheckpointError(
            f"{Path(location).name} is not what {bundle.name} was made from",
            remedy="Give the checkpoint that was shipped, or ship this one.",
        )
    return source


def reference(source: Source, on: RunOn, component: str) -> Session:
    """PyTorch itself as a session."""
    return open_reference(source.family, source.location, source.options, component, SessionOptions(on))


_PEER_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")

PEERS = tuple(
    Entrant(module_runtime().name, precision, compiled, cuda_graph)
    for precision in _PEER_PRECISIONS
    for compiled in (False, True)
    for cuda_graph in (False, True)
)
"""The ways of running the network as published by PyTorch itself. The first, eager in FP32, is what others are measured
against. FP16 and CUDA graphs are for GPUs."""


def peers(
    source: Source,
    component: str,
    on: RunOn = HERE,
    *,
    compiled: bool = False,
    cuda_graph: bool = False,
) -> list[Contender]:
    """PyTorch itself as contenders, eager FP32 first, on a GPU in FP16 too; ``compiled`` adds torch.compile,
    ``cuda_graph`` on a GPU the replaying of CUDA graphs.
    """
    runtime = module_runtime()
    on_gpu = runtime.on_gpu()
    graphs = cuda_graph and on_gpu
    wanted = [
        peer
        for peer in PEERS
        if runtime.supports(peer.precision).ok and (compiled or not peer.compiled) and peer.cuda_graph <= graphs
    ]
    openers = {peer: partial(open_peer, source, component, peer, on) for peer in wanted}
    return [Contender(peer, opener, opener if on_gpu else None) for peer, opener in openers.items()]


def open_peer(source: Source, component: str, peer: Entrant, on: RunOn, device: int | None = None) -> Session:
    """A peer as a session, on another GPU than that of ``on`` where ``device`` names one; can be pickled by name.

    Raises BackendError for one with CUDA graphs that records none.
    """
    session = open_reference(
        source.family,
        source.location,
        source.options,
        component,
        SessionOptions(on if device is None else replace(on, device=device), peer.cuda_graph),
        precision=peer.precision,
        compiled=bool(peer.compiled),
    )
    if peer.cuda_graph and not session.records:
        session.close()
        raise BackendError(
            f"{entrant_text(peer)} records none: the model computes the size of an output",
            remedy="Measure without CUDA graphs.",
        )
    return session
