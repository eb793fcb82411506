"""The job that tells what each layer of a variant costs on this machine, and what it computes in."""

from __future__ import annotations

from pathlib import Path

from torchlift.backends import LayerTime, SessionOptions, backend
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, telling
from torchlift.machine import HERE, RunOn
from torchlift.progress import SILENT, Progress
from torchlift.stages.bench import BenchOptions, workloads
from torchlift.stages.build import source_of


def layers_of(
    path: Path, name: str, batch: int | None = None, on: RunOn = HERE, progress: Progress = SILENT
) -> list[LayerTime]:
    """The layers of a variant in the order in which they run, at a batch (None: the least), other axes at the optimum.

    Raises BundleError for a variant that is not there, BackendError for one that was not built or whose runtime does
    not tell.
    """
    bundle = Bundle.open(path, progress)
    variant = bundle.manifest.variant(name)
    if variant.failure:
        said = telling(variant.failure)
        raise BackendError(f"{variant.name} was not built: {said}", remedy=f"Build it: torchlift build {path}.")
    component = bundle.manifest.component(variant.component)
    work, *_ = workloads(bundle, component, BenchOptions((batch,) if batch else ()))
    source, _ = source_of(bundle, component, variant.form)
    with progress.stage(f"run {variant.name} layer by layer"):
        return backend(variant.backend).layers(
            bundle.model(variant),
            component.signature,
            work.feeds,
            recipe=variant.recipe,
            source=bundle.model(source) if source else None,
            options=SessionOptions(on),
        )
