"""Measures a component's variants side by side with their peers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from torchlift.backends import Session, SessionOptions, backend
from torchlift.backends.opening import opener_of
from torchlift.bundle import Bundle
from torchlift.checksums import key_of
from torchlift.errors import BackendUnavailableError, InputError, telling
from torchlift.evidence import Benchmark, Entrant, Scaling
from torchlift.machine import HERE, RunOn, this_machine
from torchlift.manifest import Component, Variant
from torchlift.messages import failure_text
from torchlift.progress import SILENT, Progress
from torchlift.prove.goldens import Golden, cut, load_goldens
from torchlift.prove.verify import proven_here
from torchlift.signature import BATCH, CORNERS, Axis, Signature
from torchlift.timing.latency import Contender, LatencyOptions, Workload, measure_latency
from torchlift.timing.scaling import measure_scaling


@dataclass(frozen=True)
class BenchOptions:
    """``batches`` are measured in turn, the first decides the choice; none means 1 (or the least that the signature
    admits) and the optimum. ``sizes`` replaces the optimum of other axes. With ``cuda_graph`` every variant that can
    replay CUDA graphs is measured both ways. ``more_devices`` are further GPUs, by ordinal: throughput is then measured
    too, on the first one, on two, four and so on up to all of them.
    """

    batches: tuple[int, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    cuda_graph: bool = False
    more_devices: tuple[int, ...] = ()


def bench_component(
    bundle: Bundle,
    component: Component,
    peers: Sequence[Contender] = (),
    options: BenchOptions | None = None,
    progress: Progress = SILENT,
    *,
    on: RunOn = HERE,
    again: bool = False,
) -> Benchmark:
    """Measure the variants that are proven here side by side, with ``peers``; the first peer is the baseline.

    Without peers the first variant is. What was measured with the same contenders, files and options on this machine
    is kept, unless ``again``. Raises BackendUnavailableError where there is nothing to measure.
    """
    options = options or BenchOptions()
    ours = [v for v in bundle.manifest.variants_of(component.name) if proven_here(bundle, v)]
    if not ours:
        reasons = [said for v in bundle.manifest.variants_of(component.name) if (said := _unproven(v))]
        raise BackendUnavailableError(
            "; ".join([f"no variant of {component.name} is verified on this machine", *reasons]),
            remedy=f"Run `torchlift build {bundle.path}`; `torchlift doctor` says what this machine runs.",
        )
    offered = [contenders_of(bundle, v, on, graphed=options.cuda_graph, progress=progress) for v in ours]
    contenders = [*peers, *itertools.chain(*offered)]
    files = bundle.manifest.hashes(tuple(sorted({path for v in ours for path in v.files})))
    key = key_of(
        [c.entrant for c in contenders],
        [v.key for v in ours],
        files,
        batches_of(component.signature, options),
        options,
        on,
        this_machine(),
    )
    measured = bundle.manifest.benchmarks.get(component.name)
    if measured is not None and measured.key == key and not (measured.failures or measured.scaling.failures or again):
        return measured
    found = workloads(bundle, component, options)
    benchmark = measure_latency(
        contenders,
        found,
        baseline=contenders[0].entrant,
        options=options.latency,
        files=files,
        progress=progress,
        on=on,
    )
    devices = (on.device, *options.more_devices)
    scaling = measure_scaling(contenders, found, devices, progress) if options.more_devices else Scaling()
    benchmark = replace(benchmark, key=key, scaling=scaling)
    manifest = bundle.manifest
    bundle.commit(replace(manifest, benchmarks={**manifest.benchmarks, component.name: benchmark}))
    return benchmark


def _unproven(variant: Variant) -> str:
    """Why a variant is not proven, where that is known."""
    proof = variant.verification
    said = telling(variant.failure) or (failure_text(proof.failures[0]) if proof and proof.failures else "")
    return f"{variant.name}: {said}" if said else ""


def contenders_of(
    bundle: Bundle,
    variant: Variant,
    on: RunOn = HERE,
    *,
    graphed: bool = False,
    progress: Progress = SILENT,
) -> list[Contender]:
    """A variant as something to time, and with ``graphed`` also as it replays CUDA graphs: only where it was verified
    so, which is noted where it was not.
    """
    opener, runtime = opener_of(bundle, variant), backend(variant.backend)
    on_gpu = runtime.on_gpu()
    plain = Entrant(variant.name, variant.precision)
    modes = {plain: SessionOptions(on)}
    if graphed and on_gpu and runtime.replays:
        if variant.verification is not None and variant.verification.replays:
            modes[replace(plain, cuda_graph=True)] = SessionOptions(on, cuda_graph=True)
        else:
            progress.note(f"{variant.name} is not measured with CUDA graphs: its verification replayed none")
    return [
        Contender(entrant, partial(opener, mode), partial(_on_device, opener, mode) if on_gpu else None)
        for entrant, mode in modes.items()
    ]


def _on_device(opener: Callable[[SessionOptions], Session], options: SessionOptions, device: int) -> Session:
    return opener(replace(options, on=replace(options.on, device=device)))


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
            remedy=f"Choose a size within it, or export again with `axes={axis.name}={wider}`.",
        )


def workloads(bundle: Bundle, component: Component, options: BenchOptions) -> list[Workload]:
    """Inputs for each batch, other axes at their optimum or as asked: those of the golden of these sizes, else those of
    the next larger one, cut to them.

    Values may depend on sizes: of a graph the edges name nodes. What is cut least is most likely to fit.
    """
    asked = check_sizes(component.signature, options)
    goldens = load_goldens(bundle, component)
    return [Workload(sizes, _inputs_of(component.signature, goldens, sizes)) for sizes in asked]


def _inputs_of(
    signature: Signature, goldens: Mapping[str, Golden], sizes: Mapping[str, int]
) -> Mapping[str, np.ndarray]:
    """The inputs of the smallest golden that has all of the ``sizes``, cut to them."""
    corner = next(c for c in CORNERS if all(signature.axis(name).at(c) >= size for name, size in sizes.items()))
    return cut(signature, goldens[corner].inputs, sizes)


def check_sizes(signature: Signature, options: BenchOptions) -> list[dict[str, int]]:
    """The sizes of the axes that the options ask for, by batch. Raises InputError for one that the signature does not
    admit.
    """
    found = []
    for batch in batches_of(signature, options):
        asked = {**options.sizes, **({BATCH: batch} if signature.batch else {})}
        sizes = signature.sizes("opt", **{k: v for k, v in asked.items() if any(a.name == k for a in signature.axes)})
        for axis in signature.axes:
            _require_within(axis, sizes[axis.name])
        found.append(sizes)
    return found
