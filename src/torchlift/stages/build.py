"""Makes variants from a bundle's graphs and proves them on this machine; what is done already is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchlift.backends import Compilation, CompileOptions, backend, forms, module_runtime
from torchlift.bundle import Bundle
from torchlift.checksums import key_of, sha256
from torchlift.errors import BackendError, BundleError, StorageError, TorchliftError, telling
from torchlift.machine import HERE, RunOn, installed_version
from torchlift.manifest import SOURCE_FORM, Component, Graph, Variant
from torchlift.progress import SILENT, Progress
from torchlift.prove.ends import require_end
from torchlift.prove.verify import VerifyOptions, proven_here, verify_variant
from torchlift.storage import require_space, without_folders


def build_variant(
    bundle: Bundle,
    component: Component,
    name: str,
    recipe: str = "fp32",
    progress: Progress = SILENT,
    compiling: CompileOptions | None = None,
) -> Variant:
    """Make one variant from the graph of the form that the recipe is built from, unless the bundle has it. One whose
    backend opens graphs as they are has the graph's own files.

    What cannot be built, because the graph or the runtime fails, gives a variant with a ``failure``; one that was built
    before stays.
    """
    variant, _ = _built(bundle, component, name, recipe, progress, compiling or CompileOptions())
    return variant


def _built(
    bundle: Bundle, component: Component, name: str, recipe: str, progress: Progress, compiling: CompileOptions
) -> tuple[Variant, str]:
    """The variant that the bundle has now, and why it is not the one that was asked for; empty where it is."""
    require_end(bundle, component, progress)
    runtime = backend(name)
    asked = runtime.recipe(recipe)
    variant = Variant(component.name, name, asked.precision, "", method=asked.method, form=asked.form.name)
    source, problem = source_of(bundle, component, variant.form)
    if source is None:
        return _failed(bundle, variant, problem), problem
    hashes = sorted(bundle.manifest.hashes(source.files if isinstance(source, Graph) else (source.model,)).items())
    compilation = compilation_of(bundle, component, name, recipe, compiling, progress)
    heeded = _heeded(compilation) if runtime.compiles else ()
    key = key_of(installed_version("torchlift"), component.key, hashes, runtime.version(), asked.files, *heeded)
    made = {
        v.recipe: v
        for v in bundle.manifest.variants_of(component.name)
        if v.backend == name and v.key == key and not v.failure
    }
    if recipe in made:
        return made[recipe], ""
    variant = replace(variant, key=key)
    if made:
        same = next(iter(made.values()))
        variant = replace(variant, model=same.model, files=same.files)
        bundle.commit(bundle.manifest.with_variant(variant))
        return variant, ""
    if runtime.opens_graphs:
        variant = replace(variant, model=source.model, files=_opened_files(bundle, source))
        bundle.commit(bundle.manifest.with_variant(variant))
        return variant, ""
    weights = sum(bundle.manifest.files[path].size for path in bundle.manifest.files_of(source))
    try:
        require_space(bundle.path, weights)
        with progress.stage(f"build {variant.name}"), bundle.adding(f"{component.name}/{name}-{asked.files}") as added:
            opened = runtime.build(bundle.model(source), added.path, component.signature, compilation)
        variant = replace(variant, model=f"{added.folder}/{opened}", files=tuple(added.files))
        bundle.commit(bundle.manifest.with_variant(variant), added.files)
    except (StorageError, BundleError):
        raise
    except TorchliftError as error:
        said = without_folders(error.message)
        before = next((v for v in bundle.manifest.variants if v.name == variant.name and v.files), None)
        if before is None:
            return _failed(bundle, variant, said), said
        progress.note(f"{variant.name} stays as it was: {telling(said)}")
        return before, said
    return variant, ""


def compilation_of(
    bundle: Bundle, component: Component, name: str, recipe: str, options: CompileOptions, progress: Progress = SILENT
) -> Compilation:
    """What a backend that compiles is told for a component. What it learns of kernels is kept beside the bundle, and
    serves every build by that release on that GPU.

    Raises SignatureError for a profile beyond the component's ranges.
    """
    signature = component.signature
    profiles = [ranges for p in options.profiles if (ranges := p.of(component.name, signature.axes)) is not None]
    place = bundle.path.resolve()
    bundle_name = place.name.removeprefix(".").removesuffix(".partial")
    cache = place.with_name(f".{bundle_name}.{key_of(backend(name).version())[:8]}.timing")
    return Compilation(recipe, tuple(profiles), options, cache, progress)


def _heeded(compilation: Compilation) -> tuple[object, ...]:
    """What the result of a compilation depends on besides the graph."""
    options = compilation.options
    libraries = {library.name: sha256(library) for library in options.plugins}
    return compilation.recipe, compilation.profiles, replace(options, profiles=(), plugins=()), libraries


def _opened_files(bundle: Bundle, source: Component | Graph) -> tuple[str, ...]:
    """What a runtime reads that opens a graph as it is: of the component's own the graph and its weights, which are
    named after it, but not the goldens beside it.
    """
    files = bundle.manifest.files_of(source)
    return files if isinstance(source, Graph) else tuple(path for path in files if path.startswith(source.model))


def source_of(bundle: Bundle, component: Component, form: str) -> tuple[Component | Graph | None, str]:
    """What has a component's graph of a form, the component itself for the source's; or None, and why there is none."""
    if not component.model and form != module_runtime().program.name:
        return None, f"{component.name} has no ONNX graph: {component.failure}"
    if form == SOURCE_FORM:
        return component, ""
    graph = bundle.manifest.graph(component.name, form)
    if graph is None:
        known = forms().get(form)
        said = known.missing if known else ""
        return None, said or f"the bundle has no graph {component.name}/{form}"
    return (None, graph.failure) if graph.failure else (graph, "")


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
    on: RunOn = HERE,
    again: bool = False,
) -> None:
    """Verify each variant that is not yet proven here at the asked tolerance (``again``: each). Those of FP32 come
    first, since the others of their backends rest on them.
    """
    options = options or VerifyOptions()
    for variant in sorted(variants, key=lambda v: v.precision != "fp32"):
        if variant.failure:
            continue
        state = backend(variant.backend).available()
        if not state.ok:
            progress.note(f"{variant.name} is not verified: {state.detail}; {state.remedy}")
            continue
        if not again and proven_here(bundle, variant, options.tolerance(bundle, variant)):
            continue
        proof = verify_variant(bundle, variant, options, progress, on=on)
        bundle.commit(bundle.manifest.with_variant(replace(variant, verification=proof)))


def build_and_verify(
    bundle: Bundle,
    pairs: Sequence[tuple[str, str]],
    options: VerifyOptions,
    progress: Progress = SILENT,
    compiling: CompileOptions | None = None,
    *,
    on: RunOn = HERE,
    reserve: Sequence[tuple[str, str]] = (),
) -> None:
    """Make every (backend, recipe) of every component, those in ``reserve`` too, and verify it. Raises BackendError
    where of a component none of ``pairs`` could be made.
    """
    problems: dict[str, list[str]] = {}
    for component in bundle.manifest.components:
        for name, recipe in (*pairs, *reserve):
            variant, problem = _built(bundle, component, name, recipe, progress, compiling or CompileOptions())
            if problem and (name, recipe) in pairs:
                problems.setdefault(component.name, []).append(f"{variant.name}: {telling(problem)}")
        verify_all(bundle, bundle.manifest.variants_of(component.name), options, progress, on=on)
    for said in problems.values():
        if len(said) == len(pairs):
            raise BackendError(
                f"nothing that was asked for was built: {'; '.join(said)}",
                remedy="What the bundle had before is kept. Choose another backend or precision, or mend the cause.",
            )
