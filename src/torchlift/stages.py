"""The stages that need no torch, on a bundle that has its sources: build, verify, bench, choose.

Each does only what is not yet done: what it finds in the manifest with the same key, or proven on this machine, it
keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torchlift.backends import BACKENDS, Session, SessionOptions, backend
from torchlift.bundle import Bundle, key_of, locked
from torchlift.errors import BackendUnavailableError, InputError, StorageError, TorchliftError
from torchlift.evidence import Benchmark, Choice, Latency
from torchlift.machine import installed_version, this_machine
from torchlift.manifest import Component, Manifest, Precision, Variant
from torchlift.measure.goldens import cut, load_goldens
from torchlift.measure.latency import Contender, LatencyOptions, Workload, measure_latency
from torchlift.measure.verify import VerifyOptions, proven_here, verify_variant
from torchlift.progress import SILENT, Progress
from torchlift.signature import BATCH, Axis, Signature
from torchlift.storage import require_space, without_folders

RANKS: dict[Precision, int] = {"fp32": 0, "bf16": 1, "fp16": 2, "int8": 3}
"""From the most precise on; a tie goes to the more precise."""

_TIE = 1.02
"""Variants whose medians are within this ratio are equally fast: less than this a run cannot tell apart."""


@dataclass(frozen=True)
class BuildOptions:
    """Which variants to make: those of every available backend and every precision that the machine has instructions
    for, unless named. A backend or precision that is named and not available is an error.
    """

    backends: tuple[str, ...] = ()
    precisions: tuple[Precision, ...] = ()


@dataclass(frozen=True)
class BenchOptions:
    """``batches`` are measured in turn, the first decides the choice; none means 1 (or the least that the signature
    admits) and the optimum. ``sizes`` replaces the optimum of other axes.
    """

    batches: tuple[int, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    latency: LatencyOptions = field(default_factory=LatencyOptions)


def plan(options: BuildOptions) -> list[tuple[str, Precision]]:
    """The (backend, precision) pairs to build here. Raises BackendUnavailableError for what was named and cannot be."""
    for name in options.backends:
        backend(name).require()
    names = options.backends or tuple(n for n in BACKENDS if backend(n).available().ok)
    wanted = options.precisions or tuple(RANKS)
    for precision in options.precisions:
        states = [backend(n).supports(precision) for n in names]
        if not any(s.ok for s in states):
            raise BackendUnavailableError(
                f"no backend here runs {precision}: {'; '.join(s.detail for s in states)}",
                remedy="See `torchlift doctor` for what this machine runs.",
            )
    pairs = [(n, p) for n in names for p in backend(n).precisions if p in wanted and backend(n).supports(p).ok]
    for name in options.backends:
        if not any(n == name for n, _ in pairs):
            raise BackendUnavailableError(
                f"{name} runs none of {', '.join(options.precisions)} here",
                remedy=f"Its precisions are {', '.join(backend(name).precisions)}.",
            )
    return pairs


def build_variant(
    bundle: Bundle, component: Component, name: str, precision: Precision, progress: Progress = SILENT
) -> Variant:
    """Make one variant, unless the bundle has it. A runtime that cannot build it gives a variant with a ``failure``."""
    runtime = backend(name)
    artifact = runtime.artifact(precision)
    source = bundle.manifest.files[component.model].sha256
    key = key_of(installed_version("torchlift"), component.key, source, runtime.version(), artifact)
    made = {
        v.precision: v
        for v in bundle.manifest.variants_of(component.name)
        if v.backend == name and v.key == key and not v.failure
    }
    if precision in made:
        return made[precision]
    if made:
        variant = replace(next(iter(made.values())), precision=precision, verification=None)
        bundle.commit(bundle.manifest.with_variant(variant))
        return variant
    variant = Variant(component.name, name, precision, key)
    weights = sum(r.size for p, r in bundle.manifest.files.items() if Path(p).parent == Path(component.model).parent)
    try:
        require_space(bundle.path, weights)
        with progress.stage(f"build {variant.name}"), bundle.adding(f"{component.name}/{name}-{artifact}") as added:
            opened = runtime.build(bundle.file(component.model), added.path, component.signature)
        variant = replace(variant, model=f"{added.folder}/{opened}", files=tuple(added.files))
        bundle.commit(bundle.manifest.with_variant(variant), added.files)
    except StorageError:
        raise
    except TorchliftError as error:
        variant = replace(variant, failure=without_folders(error.message))
        bundle.commit(bundle.manifest.with_variant(variant))
    return variant


def verify_all(
    bundle: Bundle,
    variants: Sequence[Variant],
    options: VerifyOptions | None = None,
    progress: Progress = SILENT,
    *,
    again: bool = False,
) -> None:
    """Verify each variant that is not yet proven here at the asked tolerance (``again``: each)."""
    options = options or VerifyOptions()
    for variant in variants:
        if variant.failure:
            continue
        state = backend(variant.backend).available()
        if not state.ok:
            progress.note(f"{variant.name} is not verified: {state.detail}; {state.remedy}")
            continue
        if not again and proven_here(bundle, variant, options.tolerance(variant.precision)):
            continue
        proof = verify_variant(bundle, variant, options, progress)
        bundle.commit(bundle.manifest.with_variant(replace(variant, verification=proof)))


def build_and_verify(
    bundle: Bundle, pairs: Sequence[tuple[str, Precision]], options: VerifyOptions, progress: Progress = SILENT
) -> None:
    """Make every (backend, precision) of every component, and verify it."""
    for component in bundle.manifest.components:
        for name, precision in pairs:
            build_variant(bundle, component, name, precision, progress)
        verify_all(bundle, bundle.manifest.variants_of(component.name), options, progress)


def bench_and_choose(
    bundle: Bundle,
    peers: Callable[[str], Sequence[Contender]],
    options: BenchOptions,
    progress: Progress = SILENT,
    *,
    again: bool = False,
) -> None:
    """Measure every component's variants with the peers that ``peers`` gives for it by name, and choose."""
    for component in bundle.manifest.components:
        found = bench_component(bundle, component, peers(component.name), options, progress, again=again)
        choose(bundle, component, found)


def build_bundle(
    path: Path, build: BuildOptions, verify: VerifyOptions, bench: BenchOptions, progress: Progress = SILENT
) -> Manifest:
    """Make the variants that this machine runs from a bundle's own ONNX files, verify, measure, choose."""
    with locked(path):
        bundle = Bundle.open(path, progress)
        build_and_verify(bundle, plan(build), verify, progress)
        bench_and_choose(bundle, _no_peers, bench, progress)
    return bundle.manifest


def verify_bundle(path: Path, options: VerifyOptions, progress: Progress = SILENT) -> Manifest:
    """Verify every variant of a bundle on this machine, whether or not it was before."""
    with locked(path):
        bundle = Bundle.open(path, progress)
        verify_all(bundle, bundle.manifest.variants, options, progress, again=True)
    return bundle.manifest


def bench_bundle(
    path: Path,
    options: BenchOptions,
    peers: Callable[[str], Sequence[Contender]] | None = None,
    progress: Progress = SILENT,
) -> Manifest:
    """Measure a bundle's variants again, and choose again."""
    with locked(path):
        bundle = Bundle.open(path, progress)
        bench_and_choose(bundle, peers or _no_peers, options, progress, again=True)
    return bundle.manifest


def _no_peers(component: str) -> Sequence[Contender]:
    return ()


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
    opener = partial(open_session, variant.backend, model, signature, variant.precision, threads)
    return Contender(variant.name, opener)


def open_session(name: str, model: Path, signature: Signature, precision: Precision, threads: int) -> Session:
    """Open a built file by the backend of that name; can be pickled by name into another process."""
    return backend(name).open(model, signature, precision, SessionOptions(threads))


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


def choose(bundle: Bundle, component: Component, benchmark: Benchmark) -> Choice:
    """Pick the fastest proven variant at the benchmark's first batch, and say why not the others.

    Among those that are equally fast (2%) the more precise wins. Raises BackendUnavailableError where none can serve.
    """
    decisive = benchmark.latencies[0].batch if benchmark.latencies else 0
    measured = {
        v.name: latency
        for v in bundle.manifest.variants_of(component.name)
        if proven_here(bundle, v)
        and v.name not in benchmark.failures
        and (latency := benchmark.at_batch(v.name, decisive))
    }
    if not measured:
        raise BackendUnavailableError(
            f"no variant of {component.name} can serve: none was both verified and measured",
            remedy=f"`torchlift inspect {bundle.path}` says what failed.",
        )
    fastest = min(latency.median for latency in measured.values())
    tied = [name for name, latency in measured.items() if latency.median <= _TIE * fastest]
    winner = min(tied, key=lambda n: (RANKS[bundle.manifest.variant(n).precision], measured[n].median))
    choice = Choice(
        variant=winner,
        reason=f"the fastest at batch {decisive} of those that agree with PyTorch",
        others={
            v.name: _why_not(bundle, v, measured, measured[winner], benchmark)
            for v in bundle.manifest.variants_of(component.name)
            if v.name != winner
        },
    )
    bundle.commit(replace(bundle.manifest, choices={**bundle.manifest.choices, component.name: choice}))
    return choice


def _why_not(
    bundle: Bundle, variant: Variant, measured: Mapping[str, Latency], winner: Latency, benchmark: Benchmark
) -> str:
    if variant.failure:
        return f"not built: {variant.failure}"
    if variant.name in benchmark.failures:
        return f"not measured: {benchmark.failures[variant.name]}"
    if variant.verification is not None and not variant.verification.passed:
        return f"refused: {variant.verification.failures[0]}"
    if variant.name not in measured:
        return "not verified on this machine"
    ratio = measured[variant.name].median / winner.median
    return f"{ratio:.2f} times the time" if ratio > _TIE else f"as fast within {_TIE - 1:.0%}, not more precise"
