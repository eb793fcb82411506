"""The jobs: stages put together, on a bundle that is being made or one that is there. None needs torch."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from torchlift.backends import backend, module_runtime
from torchlift.bundle import Bundle
from torchlift.convert.forms import maker_of
from torchlift.datasets import TRAIN
from torchlift.errors import InputError, StorageError, TorchliftError, telling
from torchlift.graph.scales import SCALES
from torchlift.jobs.bench import Peers, bench_and_choose, no_peers
from torchlift.jobs.options import JobOptions
from torchlift.jobs.scoring import on_fewer, open_scorer
from torchlift.machine import HERE, RunOn
from torchlift.manifest import SOURCE_FORM, Component, Manifest
from torchlift.pipelines.pictures import KeptPictures
from torchlift.progress import SILENT, Progress
from torchlift.prove.verify import VerifyOptions, require_built
from torchlift.stages.bench import check_sizes
from torchlift.stages.build import build_and_verify, build_variant, verify_all
from torchlift.stages.convert import convert_component
from torchlift.stages.plan import Materials, plan
from torchlift.stages.repair import repair, tries
from torchlift.stages.samples import Samples, data_as_samples, goldens_as_samples
from torchlift.stages.score import OpenReference, Scorer, score_component
from torchlift.staging import writing
from torchlift.storage import without_folders


def make_variants(
    bundle: Bundle,
    pairs: Sequence[tuple[str, str]],
    options: JobOptions,
    progress: Progress = SILENT,
    *,
    references: OpenReference | None = None,
    peers: Peers = no_peers,
) -> None:
    """Convert, build, verify, score, mend, measure and choose; ``references`` opens PyTorch where it is at hand."""
    _check_kept(bundle, options)
    _check_profiles(bundle, options)
    _note_uncalibrated(bundle, pairs, options, progress)
    for component in bundle.manifest.components:
        check_sizes(component.signature, options.bench)
    with KeptPictures() as pictures:
        _make(bundle, pairs, options, progress, pictures, references, peers)


def _make(
    bundle: Bundle,
    pairs: Sequence[tuple[str, str]],
    options: JobOptions,
    progress: Progress,
    pictures: KeptPictures,
    references: OpenReference | None,
    peers: Peers,
) -> None:
    forms = list(dict.fromkeys(backend(n).recipe(r).form.name for n, r in pairs))
    scorer = open_scorer(bundle, options, references, progress, pictures)
    samples = samples_of(bundle, options, progress, pictures)
    for component in bundle.manifest.components:
        convert_component(bundle, component, forms, samples, options.convert, progress, on=options.on)
    reserve = _reserve(bundle, pairs)
    build_and_verify(bundle, pairs, options.verify, progress, options.compile, on=options.on, reserve=reserve)
    _mark(bundle, {**dict.fromkeys(pairs, False), **dict.fromkeys(reserve, True)})
    for component in bundle.manifest.components:
        if scorer is not None:
            score_component(scorer, component)
        _mend(bundle, component, scorer, references, options, progress, pictures)
        if scorer is not None:
            score_component(scorer, component)
    bench_and_choose(bundle, peers, options.bench, progress, on=options.on, scorer=scorer)


def pairs_of(bundle: Bundle, options: JobOptions) -> list[tuple[str, str]]:
    """What to make of a bundle here, as (backend, recipe). A component without an ONNX graph adds the runtime of its
    program.
    """
    pairs = plan(options.build, materials_of(options, bundle.manifest))
    if all(component.model for component in bundle.manifest.components):
        return pairs
    named = replace(options.build, backends=(module_runtime().name,))
    return [*pairs, *(pair for pair in plan(named, materials_of(options, bundle.manifest)) if pair not in pairs)]


def _note_uncalibrated(
    bundle: Bundle, pairs: Sequence[tuple[str, str]], options: JobOptions, progress: Progress
) -> None:
    """Tell which recipes are left out only since there is nothing to calibrate them on."""
    materials = materials_of(options, bundle.manifest)
    if options.data.source is None or materials.samples:
        return
    possible = plan(options.build, replace(materials, samples=True))
    left = [f"{name}/{recipe}" for name, recipe in possible if (name, recipe) not in pairs]
    if left:
        progress.note(
            f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} left out: the data have no split {TRAIN!r} to "
            "calibrate on; give some hundred samples by `calibration=`"
        )


def _check_kept(bundle: Bundle, options: JobOptions) -> None:
    names = [component.name for component in bundle.manifest.components]
    for text in options.convert.keep:
        if text.partition(":")[0] not in names:
            raise InputError(f"`keep={text}` names no component", remedy=f"The components are {', '.join(names)}.")


def _check_profiles(bundle: Bundle, options: JobOptions) -> None:
    axes = [
        (component.name, axis.name) for component in bundle.manifest.components for axis in component.signature.axes
    ]
    known = {name: None for component, axis in axes for name in (axis, f"{component}.{axis}")}
    for name in (name for profile in options.compile.profiles for name in profile.ranges):
        if name not in known:
            raise InputError(f"`profiles={name}` names no axis", remedy=f"The axes are {', '.join(known) or 'none'}.")


def _reserve(bundle: Bundle, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """What is made besides, to serve where nothing that was asked for holds the gate."""
    if not bundle.manifest.gate.within or any(recipe == "fp32" for _, recipe in pairs):
        return []
    found = (pairs[0][0], "fp32")
    others = [v for v in bundle.manifest.variants if v.precision == "fp32" and (v.backend, v.recipe) != found]
    return [] if any(not v.reserve and not v.failure for v in others) else [found]


def _mark(bundle: Bundle, marks: Mapping[tuple[str, str], bool]) -> None:
    """Note which variants, by backend and recipe, are there in reserve."""
    variants = tuple(replace(v, reserve=marks.get((v.backend, v.recipe), v.reserve)) for v in bundle.manifest.variants)
    if variants != bundle.manifest.variants:
        bundle.commit(replace(bundle.manifest, variants=variants))


def samples_of(
    bundle: Bundle, options: JobOptions, progress: Progress, pictures: KeptPictures | None = None
) -> Samples:
    """Where the samples come from that ranges are found on: without calibration data, what FP16 must hold is looked up
    in the data to score, or in the goldens.
    """
    calibration = options.calibration()
    if calibration.source is not None:
        return data_as_samples(bundle, calibration.source, calibration.read, progress, pictures=pictures)
    if options.data.source is not None:
        limit = min(options.data.read.limit or calibration.samples, calibration.samples)
        read = replace(options.data.read, limit=limit)
        return data_as_samples(bundle, options.data.source, read, progress, given=False, pictures=pictures)
    return goldens_as_samples(bundle)


def _mend(
    bundle: Bundle,
    component: Component,
    scorer: Scorer | None,
    references: OpenReference | None,
    options: JobOptions,
    progress: Progress,
    pictures: KeptPictures,
) -> None:
    """Mend each form by the first of its variants whose runtime is here and tries graphs; where that fails at a trial,
    note it. Then make the variants anew whose runtimes compile what was mended.
    """
    fewer = functools.cache(lambda: on_fewer(scorer, references, options, progress, pictures))
    seen = {SOURCE_FORM}
    for variant in bundle.manifest.variants_of(component.name):
        runtime = backend(variant.backend)
        if variant.form not in seen and not variant.failure and tries(runtime) and runtime.available().ok:
            seen.add(variant.form)
            before = bundle.manifest.graph(component.name, variant.form)
            try:
                evaluations = options.convert.evaluations
                repair(bundle, variant, scorer, fewer, options.verify, evaluations, progress, on=options.on)
            except StorageError:
                raise
            except (TorchliftError, RuntimeError) as error:
                said = without_folders(error.message if isinstance(error, TorchliftError) else str(error))
                progress.note(f"{variant.name} is not mended, since a trial failed: {telling(said)}")
            if bundle.manifest.graph(component.name, variant.form) != before:
                _compile_again(bundle, component, variant.form, scorer, options, progress)


def _compile_again(
    bundle: Bundle, component: Component, form: str, scorer: Scorer | None, options: JobOptions, progress: Progress
) -> None:
    """Make the variants of a form whose graph changed, of runtimes that compile, and prove them."""
    for variant in bundle.manifest.variants_of(component.name):
        runtime = backend(variant.backend)
        if variant.form == form and not tries(runtime) and runtime.available().ok:
            made = build_variant(bundle, component, variant.backend, variant.recipe, progress, options.compile)
            verify_all(bundle, [made], options.verify, progress, on=options.on)
            if scorer is not None:
                scorer.forget(made)


def build_bundle(path: Path, options: JobOptions | None = None, progress: Progress = SILENT) -> Manifest:
    """Make the variants that this machine runs from a bundle's own graphs, verify, score where there is data, measure,
    choose. A variant whose own files are damaged counts as not built.
    """
    options = options or JobOptions()
    with writing(path, progress, mending=True) as bundle:
        make_variants(bundle, pairs_of(bundle, options), options, progress)
    return bundle.manifest


def materials_of(options: JobOptions, manifest: Manifest | None = None) -> Materials:
    """What there is to make variants from; a bundle may have graphs that were calibrated before."""
    graphs = {g.form for g in manifest.graphs if not g.failure and maker_of(g.form)} if manifest else set()
    learnt = manifest is not None and any(PurePosixPath(path).name == SCALES for path in manifest.files)
    return Materials(
        data=options.data.source is not None or bool(graphs),
        learnt=learnt,
        samples=options.calibration().source is not None,
        graphs=frozenset(graphs),
    )


def verify_bundle(
    path: Path,
    options: VerifyOptions | None = None,
    progress: Progress = SILENT,
    *,
    on: RunOn = HERE,
    names: Sequence[str] = (),
) -> Manifest:
    """Verify every variant of a bundle on this machine, or those that ``names`` name, whether or not they were before.

    Raises VerificationError for one that is named and was not built, BackendUnavailableError where its runtime is not
    here.
    """
    with writing(path, progress) as bundle:
        named = [variant for name in names for variant in bundle.manifest.variants_called(name)]
        for variant in named:
            backend(variant.backend).require()
            require_built(variant)
        verify_all(bundle, named or bundle.manifest.variants, options, progress, on=on, again=True)
    return bundle.manifest


def lost_variants(before: Manifest, after: Manifest, named: Collection[str] = ()) -> list[str]:
    """The variants that a verification took from ``before`` to ``after``: refused now, though they are ``named``.

    Where none is named, those count that are chosen or agreed before, and all of a component that none agrees of.
    """
    agreed = {v.name for v in before.variants if v.verification is not None and v.verification.passed}
    agreeing = {v.component for v in after.variants if v.verification is not None and v.verification.passed}
    counted = {*named} or agreed.union(choice.variant for choice in after.choices.values())
    refused = [v for v in after.variants if v.verification is not None and not v.verification.passed]
    return [v.name for v in refused if v.name in counted or (not named and v.component not in agreeing)]
