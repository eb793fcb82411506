"""Makes variants from a bundle's graphs and proves them on this machine; what is done already is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torchlift.backends import backend
from torchlift.bundle import Bundle, key_of
from torchlift.errors import StorageError, TorchliftError
from torchlift.machine import installed_version
from torchlift.manifest import SOURCE_FORM, Component, Variant, precision_of
from torchlift.measure.verify import VerifyOptions, proven_here, verify_variant
from torchlift.progress import SILENT, Progress
from torchlift.storage import require_space, without_folders


def build_variant(
    bundle: Bundle, component: Component, name: str, recipe: str = "fp32", progress: Progress = SILENT
) -> Variant:
    """Make one variant from the graph of the form that the recipe is built from, unless the bundle has it.

    What cannot be built, because the graph or the runtime fails, gives a variant with a ``failure``.
    """
    runtime = backend(name)
    artifact, form = runtime.artifact(recipe), runtime.recipes[recipe]
    precision = precision_of(recipe)
    method = recipe.removeprefix(precision).removeprefix("-")
    variant = Variant(component.name, name, precision, "", method=method, form=form)
    model, problem = graph_file(bundle, component, form)
    if problem:
        return _failed(bundle, variant, problem)
    graph = bundle.manifest.graph(component.name, form)
    source = sorted(bundle.manifest.hashes(graph.files if graph else (model,)).items())
    key = key_of(installed_version("torchlift"), component.key, source, runtime.version(), artifact)
    made = {
        v.recipe: v
        for v in bundle.manifest.variants_of(component.name)
        if v.backend == name and v.key == key and not v.failure
    }
    if recipe in made:
        return made[recipe]
    variant = replace(variant, key=key)
    if made:
        same = next(iter(made.values()))
        variant = replace(variant, model=same.model, files=same.files)
        bundle.commit(bundle.manifest.with_variant(variant))
        return variant
    weights = sum(r.size for p, r in bundle.manifest.files.items() if Path(p).parent == Path(model).parent)
    try:
        require_space(bundle.path, weights)
        with progress.stage(f"build {variant.name}"), bundle.adding(f"{component.name}/{name}-{artifact}") as added:
            opened = runtime.build(bundle.file(model), added.path, component.signature)
        variant = replace(variant, model=f"{added.folder}/{opened}", files=tuple(added.files))
        bundle.commit(bundle.manifest.with_variant(variant), added.files)
    except StorageError:
        raise
    except TorchliftError as error:
        return _failed(bundle, variant, without_folders(error.message))
    return variant


def graph_file(bundle: Bundle, component: Component, form: str) -> tuple[str, str]:
    """The path within the bundle of a component's graph of a form, or why there is none."""
    if form == SOURCE_FORM:
        return component.model, ""
    graph = bundle.manifest.graph(component.name, form)
    if graph is None:
        return "", f"the bundle has no graph {component.name}/{form}"
    return graph.model, graph.failure


def _failed(bundle: Bundle, variant: Variant, failure: str) -> Variant:
    variant = replace(variant, failure=failure)
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
    bundle: Bundle, pairs: Sequence[tuple[str, str]], options: VerifyOptions, progress: Progress = SILENT
) -> None:
    """Make every (backend, recipe) of every component, and verify it."""
    for component in bundle.manifest.components:
        for name, recipe in pairs:
            build_variant(bundle, component, name, recipe, progress)
        verify_all(bundle, bundle.manifest.variants_of(component.name), options, progress)
