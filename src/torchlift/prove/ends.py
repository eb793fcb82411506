"""Graphs that may run for ever are first run in a process of their own, which has a deadline."""

from __future__ import annotations

from functools import partial

from torchlift.backends import Session, SessionOptions
from torchlift.backends.opening import apart_if_looping, open_source, opener_of
from torchlift.bundle import Bundle
from torchlift.machine import HERE, RunOn
from torchlift.manifest import Component, Graph, Variant
from torchlift.progress import SILENT, Progress
from torchlift.prove.goldens import load_goldens
from torchlift.prove.half import HalfSession

_ENDED: set[str] = set()
"""The SHA-256 of source graphs that answered their goldens in this process."""


def open_unproven(bundle: Bundle, variant: Variant, options: SessionOptions) -> Session:
    """Open a variant that need not be proven. It runs in a process of its own where it may never end."""
    return apart_if_looping(bundle, variant, variant.name, partial(opener_of(bundle, variant), options))


def open_half(bundle: Bundle, graph: Graph, on: RunOn = HERE) -> Session:
    """Open a graph in true half precision. It runs in a process of its own where it may never end."""
    signature = bundle.manifest.component(graph.component).signature
    opener = partial(HalfSession, bundle.model(graph).absolute(), signature, on)
    return apart_if_looping(bundle, graph, f"{graph.name} in true half precision", opener)


def require_end(bundle: Bundle, component: Component, progress: Progress = SILENT) -> None:
    """Raise BackendError where the component's own graph does not answer its goldens in time: nothing else may run it
    then. Nothing is run where it has no loops, was run before, or is not there.
    """
    if not component.model:
        return
    digest = bundle.manifest.files[component.model].sha256
    if digest in _ENDED or not bundle.may_loop(component):
        return
    goldens = load_goldens(bundle, component)
    with (
        progress.stage(f"run {component.name}, which has loops", len(goldens)) as stage,
        open_source(bundle, component) as session,
    ):
        for golden in goldens.values():
            session.run(golden.inputs)
            stage.advance()
    _ENDED.add(digest)
