"""Opens what a bundle holds as a session: a variant, or the graph that a component was exported to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torchlift.backends import Session, SessionOptions, backend, module_runtime, reference_runtime
from torchlift.backends.apart import SessionApart
from torchlift.bundle import Bundle
from torchlift.errors import BundleError
from torchlift.machine import HERE, RunOn
from torchlift.manifest import Component, Graph, Variant
from torchlift.signature import Signature


def open_variant(bundle: Bundle, variant: Variant, options: SessionOptions | None = None) -> Session:
    """A variant in its own runtime. Raises BackendError, BundleError where its files are not those of the manifest."""
    return opener_of(bundle, variant)(options or SessionOptions())


def opener_of(bundle: Bundle, variant: Variant) -> Callable[[SessionOptions], Session]:
    """What opens a variant later, also in another process: it can be pickled."""
    signature = bundle.manifest.component(variant.component).signature
    return partial(open_file, variant.backend, bundle.model(variant).absolute(), signature, variant.recipe)


def open_file(
    name: str, model: Path, signature: Signature, recipe: str, options: SessionOptions | None = None
) -> Session:
    """A built file in the backend of that name. Another process can be told to call it, since it can be pickled."""
    return backend(name).open(model, signature, recipe, options)


def open_source(bundle: Bundle, component: Component, on: RunOn = HERE) -> Session:
    """A component's own FP32 graph, on the processor, or its program where it has no graph.

    Its answers are PyTorch's, as the export proved. It runs in a process of its own where it may never end.
    """
    if not component.model:
        runtime = module_runtime()
        graph = bundle.manifest.graph(component.name, runtime.program.name)
        if graph is None or graph.failure:
            raise BundleError(f"{component.name} has neither a graph nor a program", remedy="Ship the model again.")
        runtime.require()
        return runtime.open_program(bundle.model(graph).absolute(), component.signature, SessionOptions(on))
    model = bundle.model(component).absolute()
    opener = partial(open_file, reference_runtime().name, model, component.signature, "fp32", SessionOptions(on))
    return apart_if_looping(bundle, component, f"the graph of {component.name}", opener)


def apart_if_looping(
    bundle: Bundle, owner: Component | Graph | Variant, name: str, opener: Callable[[], Session]
) -> Session:
    """The session of ``opener``, which must be picklable. It is in a process of its own, with a deadline for each
    answer, where the model of ``owner`` has a loop. ``name`` is what errors call it.
    """
    if not bundle.may_loop(owner):
        return opener()
    size = sum(bundle.manifest.files[path].size for path in bundle.manifest.files_of(owner))
    return SessionApart(opener, bundle.manifest.component(_component_of(owner)).signature, name, size)


def _component_of(owner: Component | Graph | Variant) -> str:
    return owner.name if isinstance(owner, Component) else owner.component
