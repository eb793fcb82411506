"""Measures a component's variants side by side with their peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torchlift.backends import Session, SessionOptions, backend
from torchlift.bundle import Bundle, key_of
from torchlift.errors import BackendUnavailableError, InputError
from torchlift.evidence import Benchmark
from torchlift.machine import this_machine
from torchlift.manifest import Component, Variant
from torchlift.measure.goldens import cut, load_goldens
from torchlift.measure.latency import Contender, LatencyOptions, Workload, measure_latency
from torchlift.measure.verify import proven_here
from torchlift.progress import SILENT, Progress
from torchlift.signature import BATCH, Axis, Signature


@dataclass(frozen=True)
class BenchOptions:
    """``batches`` are measured in turn, the first decides the choice; none means 1 (or the least that the signature
    admits) and the optimum. ``sizes`` replaces the optimum of other axes.
    """

    batches: tuple[int, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    latency: LatencyOptions = field(default_factory=LatencyOptions)


def bench_component(
    bundle: Bundle,
    component: Component,
    peers: Sequence[Contender] = (),
    options: BenchOptions | None = None,
    progress: Progress = SILENT,
    *,
    again: bool = False,
) -> Benchmark:
    """Measure the variants that are proven here side by side, with ``peers``; the first peer is the baseline.

    Without peers the first variant is. What was measured with the same contenders, files and options on this machine
    is kept, unless ``again``. Raises BackendUnavailableError where there is nothing to measure.
    """
    options = options or BenchOptions()
    threads = options.latency.threads
    ours = [v for v in bundle.manifest.variants_of(component.name) if proven_here(bundle, v)]
    if not ours:
        raise BackendUnavailableError(
            f"no variant of {component.name} is verified on this machine",
            remedy=f"Run `torchlift build {bundle.path}` first; `torchlift inspect` says what failed.",
        )
    contenders = [*peers, *(contender_of(bundle, v, threads) for v in ours)]
    files = bundle.manifest.hashes(tuple(sorted({path for v in ours for path in v.files})))
    key = key_of(
        [c.name for c in contenders],
        [v.key for v in ours],
        files,
        batches_of(component.signature, options),
        options,
        this_machine(),
    )
    measured = bundle.manifest.benchmarks.get(component.name)
    if measured is not None and measured.key == key and not measured.failures and not again:
        return measured
    benchmark = measure_latency(
        contenders,
        workloads(bundle, component, options),
        baseline=contenders[0].name,
        options=options.latency,
        files=files,
        progress=progress,
    )
    benchmark = replace(benchmark, key=key)
    manifest = bundle.manifest
    bundle.commit(replace(manifest, benchmarks={**manifest.benchmarks, component.name: benchmark}))
    return benchmark


def contender_of(bundle: Bundle, variant: Variant, threads: int = 0) -> Contender:
    """A variant as something to time."""
    signature = bundle.manifest.component(variant.component).signature
    model = bundle.file(variant.model).absolute()
    opener = partial(open_session, variant.backend, model, signature, variant.recipe, threads)
    return Contender(variant.name, opener)


def open_session(name: str, model: Path, signature: Signature, recipe: str, threads: int) -> Session:
    """Open a built file by the backend of that name; can be pickled by name into another process."""
    return backend(name).open(model, signature, recipe, SessionOptions(threads))


def batches_of(signature: Signature, options: BenchOptions) -> tuple[int, ...]:
    """The batches to measure; for a component without a batch axis just 1."""
    axis = signature.batch
    if axis is None:
        return (1,)
    for size in options.batches:
        _require_within(axis, size)
    return options.batches or tuple(dict.fromkeys((axis.min, axis.opt)))


def _require_within(axis: Axis, size: int) -> None:
    if not axis.min <= size <= axis.max:
        wider = f"{min(size, axis.min)}..{axis.opt}..{max(size, axis.max)}"
        raise InputError(
            f"{axis.name} {size} is outside {axis.min}..{axis.max}",
            remedy=f"Choose a size within it, or export again with --axis {axis.name}={wider}.",
        )


def workloads(bundle: Bundle, component: Component, options: BenchOptions) -> list[Workload]:
    """The goldens' inputs cut to each batch, other axes at their optimum or as asked."""
    signature = component.signature
    largest = load_goldens(bundle, component)["max"].inputs
    found = []
    for batch in batches_of(signature, options):
        asked = {**options.sizes, **({BATCH: batch} if signature.batch else {})}
        sizes = signature.sizes("opt", **{k: v for k, v in asked.items() if any(a.name == k for a in signature.axes)})
        for axis in signature.axes:
            _require_within(axis, sizes[axis.name])
        found.append(Workload(sizes, cut(signature, largest, sizes)))
    return found
