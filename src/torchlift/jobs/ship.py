"""The main job: export a model, make every variant that runs here, prove, measure, choose, and write the bundle."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torchlift.backends import Session, SessionOptions, backend
from torchlift.backends.pytorch import PROGRAM, gpu_of
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, CheckpointError
from torchlift.evidence import GRAPHED, Gate
from torchlift.export import ExportOptions, export_component, export_key, export_program
from torchlift.families import family
from torchlift.families.base import LoadOptions, Model
from torchlift.families.reference import open_reference
from torchlift.folder import Folder
from torchlift.jobs import JobOptions, gate_without_data, make_variants, materials_of
from torchlift.machine import installed_version
from torchlift.manifest import Manifest, Precision, read_manifest
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
        if self.gate is not None and self.gate.within and self.data.path is None:
            raise gate_without_data(self.gate)


def ship(source: Source, output: Path, options: ShipOptions | None = None, progress: Progress = SILENT) -> Bundle:
    """Make the bundle at ``output``; what was there stays until the new one is complete.

    Run again after a kill, it goes on from what was finished. Raises TorchliftError.
    """
    options = options or ShipOptions()
    named = plan(options.build, Materials(data=True, samples=True))  # what is not here is an error before the export
    threads, device = options.bench.latency.threads, options.bench.devices[0]
    with _exported(source, output, options.export, progress, program=PROGRAM in _forms(named)) as bundle:
        pairs = plan(options.build, materials_of(options, bundle.manifest))
        _keep_only(bundle, pairs, _forms(pairs))
        make_variants(
            bundle,
            pairs,
            options,
            progress,
            references=partial(reference, source, threads),
            peers=partial(
                peers,
                source,
                threads=threads,
                device=device,
                compiled=options.compiled,
                cuda_graph=options.bench.cuda_graph,
            ),
        )
    return Bundle(output, bundle.manifest)


def export(
    source: Source,
    output: Path,
    options: ExportOptions | None = None,
    progress: Progress = SILENT,
    *,
    program: bool = False,
) -> Bundle:
    """Make a bundle that holds the graphs, the goldens and the assets, and no variant yet; ``program`` adds each
    component's torch.export program.
    """
    with _exported(source, output, options or ExportOptions(), progress, program=program) as bundle:
        _keep_only(bundle, (), {PROGRAM} if program else set())
    return Bundle(output, bundle.manifest)


@contextmanager
def _exported(
    source: Source, output: Path, options: ExportOptions, progress: Progress, *, program: bool
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
            if program:
                export_program(model, name, bundle, progress)
        yield bundle


def _forms(pairs: Sequence[tuple[str, str]]) -> set[str]:
    """The forms of the graphs that (backend, recipe) pairs are built from."""
    return {backend(name).recipes[recipe] for name, recipe in pairs}


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


def reference(source: Source, threads: int, component: str) -> Session:
    """PyTorch itself as a session."""
    return open_reference(source.family, source.location, source.options, component, SessionOptions(threads))


@dataclass(frozen=True)
class Peer:
    """A way of running the network as published by PyTorch itself."""

    name: str
    precision: Precision = "fp32"
    compiled: bool = False
    cuda_graph: bool = False


PEERS = (
    Peer("pytorch eager"),
    Peer(f"pytorch eager{GRAPHED}", cuda_graph=True),
    Peer("pytorch compile", compiled=True),
    Peer(f"pytorch compile{GRAPHED}", compiled=True, cuda_graph=True),
    Peer("pytorch eager fp16", "fp16"),
    Peer(f"pytorch eager fp16{GRAPHED}", "fp16", cuda_graph=True),
    Peer("pytorch compile fp16", "fp16", compiled=True),
    Peer(f"pytorch compile fp16{GRAPHED}", "fp16", compiled=True, cuda_graph=True),
)
"""The first is what others are measured against. FP16 and CUDA graphs are for GPUs."""


def peers(
    source: Source,
    component: str,
    threads: int = 0,
    *,
    device: int = 0,
    compiled: bool = False,
    cuda_graph: bool = False,
) -> list[Contender]:
    """PyTorch itself as contenders, eager FP32 first, on a GPU in FP16 too; ``compiled`` adds torch.compile,
    ``cuda_graph`` on a GPU the replaying of CUDA graphs.
    """
    runtime, on_gpu = backend("pytorch"), gpu_of() is not None
    graphs = cuda_graph and on_gpu
    wanted = [
        peer
        for peer in PEERS
        if runtime.supports(peer.precision).ok and peer.compiled <= compiled and peer.cuda_graph <= graphs
    ]
    openers = {peer.name: partial(open_peer, source, component, peer, threads) for peer in wanted}
    return [Contender(name, partial(open_, device), open_ if on_gpu else None) for name, open_ in openers.items()]


def open_peer(source: Source, component: str, peer: Peer, threads: int, device: int) -> Session:
    """A peer as a session on the GPU of that ordinal, where torch has one; can be pickled by name.

    Raises BackendError for one with CUDA graphs that records none.
    """
    session = open_reference(
        source.family,
        source.location,
        source.options,
        component,
        SessionOptions(threads, device, peer.cuda_graph),
        precision=peer.precision,
        compiled=peer.compiled,
    )
    if peer.cuda_graph and not session.records:
        session.close()
        raise BackendError(
            f"{peer.name} records none: the model computes the size of an output", remedy="Measure without CUDA graphs."
        )
    return session
