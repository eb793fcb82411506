"""Exports a component as a torch.export program, for targets that have torch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from torchlift.backends import module_runtime
from torchlift.bundle import Bundle
from torchlift.checksums import key_of
from torchlift.errors import StorageError, TorchliftError
from torchlift.exporter.explain import explained, quiet
from torchlift.exporter.guards import require_guards
from torchlift.exporter.proof import prove_answers
from torchlift.exporter.strategies import STRATEGIES, Strategy, captured
from torchlift.exporter.writing import example_inputs
from torchlift.families.base import Model
from torchlift.manifest import Component, Graph
from torchlift.progress import SILENT, Progress
from torchlift.prove.goldens import load_goldens
from torchlift.prove.judges import judge_of, usual_tolerance_in
from torchlift.storage import require_space, without_folders

PROGRAM = module_runtime().program
"""The form that :func:`export_program` writes."""


def export_program(model: Model, name: str, bundle: Bundle, progress: Progress = SILENT) -> Graph:
    """Write a component that was exported as a torch.export program too, for targets that have torch, unless the bundle
    has it, and return what the manifest now says of it. The strategies of torch.export are tried in turn.

    One that cannot be traced, or that answers otherwise than PyTorch, is kept as a failure.
    """
    component = bundle.manifest.component(name)
    graph = Graph(name, PROGRAM.name, key_of(component.key, PROGRAM.name))
    there = bundle.manifest.graph(name, PROGRAM.name)
    if there is not None and there.key == graph.key and not there.failure:
        progress.note(f"{graph.name} was exported before: kept")
        return there
    require_space(bundle.path, 4 * component.parameters)
    try:
        with bundle.adding(graph.name) as added:
            write_proven_program(model, component, bundle, added.path / PROGRAM.model, progress)
    except StorageError:
        raise
    except TorchliftError as error:
        graph = replace(graph, failure=without_folders(error.message))
        progress.note(f"{graph.name} is not there: {graph.failure}")
        bundle.commit(bundle.manifest.with_graph(graph))
        return graph
    graph = replace(graph, model=f"{added.folder}/{PROGRAM.model}", files=tuple(added.files))
    bundle.commit(bundle.manifest.with_graph(graph), added.files)
    return graph


def write_proven_program(
    model: Model, component: Component, bundle: Bundle, file: Path, progress: Progress = SILENT
) -> None:
    """Write a component's program to ``file`` by the first strategy whose program answers as PyTorch at every golden.

    Raises the first strategy's error where none does.
    """
    first: TorchliftError | None = None
    for strategy in (strategy for strategy in STRATEGIES if strategy.exporter == "dynamo"):
        try:
            _write_program(model, component, file, strategy, progress)
            _prove_program(file, bundle, component, progress)
            return
        except StorageError:
            raise
        except TorchliftError as error:
            first = first or error
    assert first is not None
    raise first


EXPORTERS: Mapping[str, Callable[[Model, str, Bundle, Progress], Graph]] = {PROGRAM.name: export_program}
"""What exports a form besides a component's ONNX graph, by the form's name: of a model, the component of that name."""


def _write_program(model: Model, component: Component, file: Path, strategy: Strategy, progress: Progress) -> None:
    """The style ``node`` of attention is torch's own, which runs as one kernel."""
    with progress.stage(f"load {component.name}"):
        part = model.component(component.name, attention="node")
    with progress.stage(f"export {component.name} as a program"), quiet():
        try:
            with torch.no_grad():
                program = captured(part, example_inputs(part), strategy)
                require_guards(program, part.signature)
                module_runtime().write_program(program, file)
        except (TorchliftError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a user's network may end in sys.exit
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk is full, for example
            raise explained(error, part.signature, "Leave the backend pytorch out.") from error


def _prove_program(file: Path, bundle: Bundle, component: Component, progress: Progress) -> None:
    gc.collect()
    goldens = [*load_goldens(bundle, component).values()]
    judge = judge_of(bundle, component, goldens, usual_tolerance_in(bundle, component, "fp32"))
    with module_runtime().open_program(file, component.signature) as session:
        prove_answers(session, goldens, judge, progress)
