"""The Python functions of torchlift: a flat door with plain keywords. The command line does the same jobs.

For example::

    import torchlift as tl

    tl.ship("chinese-clip", "f.pt", "clip/", data="muge/", within={"recall@1": 0.2})
    with tl.open("clip/", threads=2) as clip:
        clip.encode_text(["一只猫"])

Keywords that several functions share are documented where they are declared, in :mod:`torchlift.jobs.keywords`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torchlift import jobs
from torchlift.errors import BackendUnavailableError, InputError
from torchlift.jobs import JobOptions
from torchlift.jobs.keywords import (
    BenchKeywords,
    ConvertKeywords,
    DataKeywords,
    ExportKeywords,
    GateKeywords,
    JobKeywords,
    NetworkKeywords,
    OnKeywords,
    PathLike,
    ShipKeywords,
    VerifyKeywords,
    axes_of,
    job_fields,
    only,
    require_known,
    run_on,
    texts,
)
from torchlift.machine import RunOn
from torchlift.manifest import Manifest, read_manifest
from torchlift.pipelines import OpenOptions, open_bundle
from torchlift.progress import SILENT, Progress

if TYPE_CHECKING:
    from typing import Unpack

    from torch import nn

    from torchlift.bundle import Bundle
    from torchlift.exporter import ExportOptions
    from torchlift.jobs import BisectReport, PartingReport
    from torchlift.jobs.source import AnySource
    from torchlift.torch_module import BundleModule


@overload
def ship(
    family: str,
    source: PathLike,
    output: PathLike,
    *,
    compiled: bool = ...,
    progress: Progress = ...,
    **given: Unpack[ShipKeywords],
) -> Bundle: ...


@overload
def ship(
    network: nn.Module,
    output: PathLike,
    /,
    *,
    compiled: bool = ...,
    progress: Progress = ...,
    **given: Unpack[ShipKeywords],
) -> Bundle: ...


def ship(  # type: ignore[misc]
    family: Any,
    source: PathLike,
    output: PathLike | None = None,
    *,
    compiled: bool = False,
    progress: Progress = SILENT,
    **given: Unpack[ShipKeywords],
) -> Bundle:
    """Take a trained model to a bundle that is verified, measured and ready to serve: the main job.

    For example ``tl.ship("chinese-clip", "f.pt", "clip/")``, or of a network in memory
    ``tl.ship(net, "net/", example=(ids, mask))``. The network itself is not changed.

    What was at ``output`` stays until the new bundle is complete. Run again after a kill, it goes on from what was
    finished.

    Args:
        family: The kind of model: for example ``chinese-clip`` or ``swin``, or ``module`` for a network of your own. Or
            the network itself, a torch.nn.Module; the next argument is then ``output``.
        source: A checkpoint file, a transformers folder, a hub name, or of a module ``path/to/file.py:function``.
        output: The folder of the bundle.
        compiled: Measure torch.compile too.
        progress: Is told of every stage.
        given: The keywords of :class:`~torchlift.jobs.keywords.SourceKeywords`, such as ``axes``, of
            :class:`~torchlift.jobs.keywords.NetworkKeywords`, such as ``example``, and of
            :class:`~torchlift.jobs.keywords.JobKeywords`: ``data``, ``within``, ``backends``, ...

    Raises TorchliftError, and TypeError for a keyword that there is not.
    """
    from torchlift.jobs.ship import ShipOptions
    from torchlift.jobs.ship import ship as ship_source

    require_known("ship", given, ShipKeywords)
    made, place, exporting = _to_export(family, source, output, given)
    options = ShipOptions(**job_fields(given), export=exporting, compiled=compiled)
    return ship_source(made, place, options, progress)


@overload
def export(
    family: str,
    source: PathLike,
    output: PathLike,
    *,
    program: bool = ...,
    progress: Progress = ...,
    **given: Unpack[ExportKeywords],
) -> Bundle: ...


@overload
def export(
    network: nn.Module,
    output: PathLike,
    /,
    *,
    program: bool = ...,
    progress: Progress = ...,
    **given: Unpack[ExportKeywords],
) -> Bundle: ...


def export(  # type: ignore[misc]
    family: Any,
    source: PathLike,
    output: PathLike | None = None,
    *,
    program: bool = False,
    progress: Progress = SILENT,
    **given: Unpack[ExportKeywords],
) -> Bundle:
    """Make a bundle that holds the ONNX graphs, proven, and no variant yet: :func:`build` makes those where it serves.

    The arguments are those of :func:`ship`, the keywords those of :class:`~torchlift.jobs.keywords.SourceKeywords` and
    :class:`~torchlift.jobs.keywords.NetworkKeywords`. ``program`` exports a torch.export program of each component too.
    """
    from torchlift.exporter import EXPORTERS
    from torchlift.jobs.ship import export as export_source

    require_known("export", given, ExportKeywords)
    made, place, exporting = _to_export(family, source, output, given)
    return export_source(made, place, exporting, progress, forms=tuple(EXPORTERS) if program else ())


def build(bundle: PathLike, *, progress: Progress = SILENT, **job: Unpack[JobKeywords]) -> Manifest:
    """Make the variants that this machine runs, verify, score and measure them, and choose; without torch.

    For example ``tl.build("clip/", backends=["openvino"], precisions=["int8"], calibration="train/")``.

    The keywords are those of :class:`~torchlift.jobs.keywords.JobKeywords`. Raises TorchliftError, and TypeError for a
    keyword that there is not.
    """
    require_known("build", job, JobKeywords)
    fields = job_fields(job, read_manifest(Path(bundle)).gate)
    return jobs.build_bundle(Path(bundle), JobOptions(**fields), progress)


def score(
    bundle: PathLike,
    *,
    source: PathLike | None = None,
    write: PathLike | None = None,
    report: bool = False,
    progress: Progress = SILENT,
    **job: Any,
) -> Manifest:
    """Score every variant that runs here on the model's task, and choose again among what was measured.

    Args:
        bundle: The folder of the bundle.
        source: Where the model came from. PyTorch is then asked, and is what drops are against.
        write: A folder for the chosen variants' answers in the formats of the task's own scripts.
        report: Change nothing: only the manifest that is returned has the scores.
        progress: Is told of every stage.
        job: ``data`` and the other keywords of :class:`~torchlift.jobs.keywords.DataKeywords`,
            :class:`~torchlift.jobs.keywords.GateKeywords` and :class:`~torchlift.jobs.keywords.OnKeywords`.
    """
    require_known("score", job, DataKeywords, GateKeywords, OnKeywords)
    options = JobOptions(**job_fields(job, read_manifest(Path(bundle)).gate))
    references = _references(bundle, source, options.on)
    folder = None if write is None else Path(write)
    return (jobs.report_bundle if report else jobs.score_bundle)(Path(bundle), options, references, progress, folder)


def bench(
    bundle: PathLike,
    *,
    source: PathLike | None = None,
    compiled: bool = False,
    progress: Progress = SILENT,
    **job: Any,
) -> Manifest:
    """Measure the variants in one run, a process each, in interleaved rounds, and choose again.

    ``source`` is where the model came from: PyTorch is then measured too, as the baseline; ``compiled`` adds
    torch.compile. The keywords are those of :class:`~torchlift.jobs.keywords.BenchKeywords` and
    :class:`~torchlift.jobs.keywords.OnKeywords`.
    """
    require_known("bench", job, BenchKeywords, OnKeywords)
    if compiled and source is None:
        raise InputError("compiled measures PyTorch, and no source is given", remedy="Give the checkpoint: source=...")
    fields = job_fields(job)
    peers: Any = jobs.no_peers
    if source is not None:
        from torchlift.jobs.peers import peers as peers_of
        from torchlift.jobs.source import source_of

        found = source_of(Path(bundle), str(source))
        peers = partial(peers_of, found, on=fields["on"], compiled=compiled, cuda_graph=fields["bench"].cuda_graph)
    return jobs.bench_bundle(Path(bundle), fields["bench"], peers, progress, on=fields["on"])


def verify(bundle: PathLike, *, variants: Sequence[str] = (), progress: Progress = SILENT, **job: Any) -> Manifest:
    """Verify every variant of a bundle on this machine, whether or not it was before.

    ``variants`` are names, as ``image/openvino/int8``, or ``openvino/int8`` for every component that has it: only these
    are verified then. Such a one that was not built, or whose runtime is not here, is an error. The other keywords are
    those of :class:`~torchlift.jobs.keywords.VerifyKeywords` and :class:`~torchlift.jobs.keywords.OnKeywords`.
    """
    require_known("verify", job, VerifyKeywords, OnKeywords)
    names = texts("variants", variants)
    return jobs.verify_bundle(Path(bundle), job_fields(job)["verify"], progress, on=run_on(job), names=names)


def bisect(bundle: PathLike, variant: str, *, progress: Progress = SILENT, **job: Any) -> BisectReport | PartingReport:
    """Rank the nodes of a variant's graph by what their conversion costs. The bundle is not changed.

    For FP32, and BF16 of the same graph, nothing is converted. There it finds the first nodes that the variant's
    runtime computes otherwise than the graph says, at the golden ``opt``.

    The keywords are those of :class:`~torchlift.jobs.keywords.DataKeywords`,
    :class:`~torchlift.jobs.keywords.OnKeywords`, and ``evaluations``.
    """
    require_known("bisect", job, DataKeywords, OnKeywords, ConvertKeywords)
    options = JobOptions(**job_fields(job, read_manifest(Path(bundle)).gate))
    return jobs.bisect_bundle(Path(bundle), variant, options, progress)


def open(
    bundle: PathLike,
    *,
    variants: Mapping[str, str] | None = None,
    threads: int = 0,
    device: int = 0,
    progress: Progress = SILENT,
) -> Any:
    """Open a bundle for use, without torch. Any number of threads may share it. Close it, or use ``with``.

    The manifest says what it is: a :class:`~torchlift.pipelines.dual_encoder.DualEncoder` for pictures and texts in one
    space, a :class:`~torchlift.pipelines.super_resolution.SuperResolution` for one that enlarges pictures, a
    :class:`~torchlift.pipelines.tensors.TensorPipeline` for a component that is called like a function.

    Args:
        bundle: The folder of the bundle.
        variants: Others than the chosen: component -> variant name, or its ``backend/precision``.
        threads: Threads for one call; 0 is every usable core.
        device: The GPU, by ordinal, of what runs on one.
        progress: Is told of every stage.

    The chosen variants serve. One that was not yet verified on this machine is verified now. Raises BundleError,
    BackendUnavailableError, VerificationError.
    """
    return open_bundle(bundle, OpenOptions(dict(variants or {}), RunOn(threads, device)), progress)


def as_module(
    bundle: PathLike,
    *,
    component: str | None = None,
    variants: Mapping[str, str] | None = None,
    threads: int = 0,
    device: int = 0,
    progress: Progress = SILENT,
) -> BundleModule:
    """Open a bundle as an nn.Module, to be put in the place of the network that was shipped.

    For example ``pipe.unet = tl.as_module("net/")``. It is called as the network is, by position or by keyword, with
    tensors on the processor or a GPU, and returns what the network does: a tensor, a tuple, or an object with keys and
    attributes.

    The variant that was chosen stands behind it. It has no parameters, an empty ``state_dict()``, and computes no
    gradients: a tensor that requires one is an error where gradients are computed. It stays in evaluation, stays where
    its variant runs whatever ``.to()`` is told, and can be neither copied nor pickled.

    Args:
        bundle: The folder of the bundle.
        component: Which of several components.
        variants: Others than the chosen: component -> variant name, or its ``backend/precision``.
        threads: Threads for one call; 0 is every usable core.
        device: The GPU, by ordinal, of what runs on one.
        progress: Is told of every stage.

    Raises what :func:`open` raises, and BackendUnavailableError without torch.
    """
    try:
        from torchlift.torch_module import open_module
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BackendUnavailableError(
            "as_module makes a module of torch, which is not installed",
            remedy='Install it, pip install "torchlift[torch]", or use torchlift.open.',
        ) from error
    pipeline = open(bundle, variants=variants, threads=threads, device=device, progress=progress)
    try:
        return open_module(pipeline, component)
    except BaseException:
        pipeline.close()
        raise


def _to_export(
    family: Any, source: PathLike, output: PathLike | None, given: Mapping[str, Any]
) -> tuple[AnySource, Path, ExportOptions]:
    """What is exported, into which folder, and how, from the arguments and the keywords of :class:`ExportKeywords`."""
    from torchlift.exporter import ExportOptions
    from torchlift.families.base import LoadOptions
    from torchlift.jobs.source import Source, live_source

    exporting = ExportOptions(**only(given, exporter="exporter", opset="opset", seed="seed"))
    vocabulary = given.get("vocabulary")
    loading = LoadOptions(
        axes_of(given.get("axes") or {}), None if vocabulary is None else Path(vocabulary), given.get("resolution")
    )
    told = {name: given[name] for name in NetworkKeywords.__annotations__ if name in given}
    if isinstance(family, str):
        if told:
            raise InputError(
                f"{', '.join(f'`{name}=`' for name in told)} belong to a network that is given itself",
                remedy="In a file, decorate the function with torchlift.module(...).",
            )
        if output is None:
            raise InputError(
                "no output is given",
                remedy='Call it as ship("chinese-clip", "model.pt", "bundle/"), or ship(net, "bundle/").',
            )
        return Source(family, str(source), loading), Path(output), exporting
    if output is not None:
        raise InputError(
            f"a network is given, and both {source} and {output}", remedy='Call it as ship(net, "bundle/").'
        )
    axes = [axis for found in axes_of(given.get("axes") or {}).values() for axis in found.values()]
    return live_source(family, told, axes), Path(source), exporting


def _references(bundle: PathLike, source: PathLike | None, on: RunOn) -> Any:
    if source is None:
        return None
    from torchlift.jobs.peers import reference
    from torchlift.jobs.source import source_of

    return partial(reference, source_of(Path(bundle), str(source)), on)
