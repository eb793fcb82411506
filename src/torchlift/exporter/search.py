"""Exports a component by the first of several strategies whose file is proven at every golden."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torchlift.backends import reference_runtime
from torchlift.bundle import SOURCE, Bundle
from torchlift.checksums import key_of
from torchlift.errors import BakedInError, ExportMemoryError, StorageError, TorchliftError
from torchlift.exporter.answers import answers_of, draw_goldens
from torchlift.exporter.guards import baked_in
from torchlift.exporter.options import Exporter, ExportOptions
from torchlift.exporter.program import PROGRAM, export_program
from torchlift.exporter.proof import prove_answers, require_inputs_read, require_valid, with_symbolic
from torchlift.exporter.repeats import require_repeats
from torchlift.exporter.strategies import Strategy, strategies_for
from torchlift.exporter.sweep import sweep
from torchlift.exporter.writing import write_onnx
from torchlift.families.base import Model, ModelComponent
from torchlift.graph.scales import save_scales
from torchlift.machine import installed_version
from torchlift.manifest import Component
from torchlift.progress import SILENT, Muted, Progress
from torchlift.prove.goldens import GOLDENS, Golden, save_goldens
from torchlift.prove.judges import judge_by, usual_tolerance
from torchlift.prove.stress import save_stress, stress_samples
from torchlift.storage import require_space, without_folders

_MAKERS = ("torchlift", "torch", "onnx-ir", "onnxscript", "transformers")
"""The distributions whose release decides what an export writes."""

_COPIES: dict[Exporter, int] = {"dynamo": 1, "torchscript": 2}
"""How many copies of the weights the disk must hold: TorchScript's exporter writes files of its own first."""


def export_key(model: Model, component: str, options: ExportOptions) -> str:
    """The hash of all that an export depends on."""
    return key_of(model.key, component, options, [installed_version(name) for name in _MAKERS])


@dataclass(frozen=True)
class Attempt:
    """A strategy that did not end in a proof, and why."""

    strategy: Strategy
    error: TorchliftError


def export_component(
    model: Model, name: str, bundle: Bundle, options: ExportOptions | None = None, progress: Progress = SILENT
) -> Component:
    """Export one component into the bundle, with its goldens, and return what the manifest now says of it.

    The strategies are tried in turn; the first whose file is proven at every golden counts. The component's weights are
    let go before a file is proven, so that ONNX Runtime's copy does not come on top.

    Where no strategy succeeds, for example since an operator has no ONNX form, the component gets a program for PyTorch
    in the place of its graph, if that is proven, and no single exporter was asked for.

    Else raises the error of the most telling strategy: BakedInError where an input or an axis turned constant,
    VerificationError where the file answers otherwise than PyTorch, ExportError for all else. Raises NoSignalError
    where PyTorch's answers are all zero.
    """
    options = options or ExportOptions()
    part = _loaded(model, name, options.exporters[0], options, progress)
    strategies = strategies_for(part, options)
    parameters = sum(p.numel() for p in part.reference.parameters())
    goldens = draw_goldens(part, options.seed, progress)
    require_repeats(part, goldens[0])
    ready = {options.attention_of(options.exporters[0]): part}
    del part
    attempts: list[Attempt] = []
    for strategy in strategies:
        require_space(bundle.path, 4 * parameters * _COPIES[strategy.exporter])
        owned = [part for attention, part in ready.items() if attention == options.attention_of(strategy.exporter)]
        ready.clear()
        if not owned:
            owned.append(_loaded(model, name, strategy.exporter, options, progress))
        try:
            return _exported(model, owned, bundle, strategy, options, goldens, parameters, progress, _said(attempts))
        except (StorageError, ExportMemoryError):
            raise
        except TorchliftError as error:
            attempts.append(Attempt(strategy, error))
            gc.collect()
    reason = _reason(attempts)
    if options.exporter is not None:
        raise reason
    return _without_graph(model, name, bundle, options, goldens, parameters, reason, progress, _said(attempts))


def _without_graph(
    model: Model,
    name: str,
    bundle: Bundle,
    options: ExportOptions,
    goldens: Sequence[Golden],
    parameters: int,
    reason: TorchliftError,
    progress: Progress,
    tried: dict[str, str],
) -> Component:
    """Put a component without an ONNX graph into the bundle, with its proven program. Raises ``reason`` where it has no
    program either: nothing is changed then.
    """
    part = _loaded(model, name, "dynamo", options, progress)
    component = _component(model, part, PROGRAM.name, 0, options, parameters)
    component = replace(component, failure=without_folders(reason.message), tried=tried)
    scales = part.scales
    del part
    with bundle.together():
        with bundle.adding(f"{name}/{SOURCE}") as added:
            save_goldens(added.path / GOLDENS, goldens)
            save_scales(added.path, scales)
        component = replace(component, goldens=f"{added.folder}/{GOLDENS}")
        bundle.commit(bundle.manifest.with_component(component), added.files)
        if export_program(model, name, bundle, Muted(progress)).failure:
            raise reason
    progress.note(f"{name} has no ONNX graph, and is shipped as a program that needs PyTorch: {reason.message}")
    return component


def _component(
    model: Model, part: ModelComponent, exporter: str, opset: int, options: ExportOptions, parameters: int
) -> Component:
    """What the manifest says of a component, but for its files."""
    return Component(
        name=part.name,
        signature=part.signature,
        model="",
        goldens="",
        exporter=exporter,
        opset=opset,
        parameters=parameters,
        key=export_key(model, part.name, options),
        inputs=dict(part.inputs),
        answers=dict(part.answers),
        assets={role: hashlib.sha256(content).hexdigest() for role, (_, content) in model.assets.items()},
        call=part.call,
        keep=part.keep,
        keep_int8=part.keep_int8,
    )


def _loaded(model: Model, name: str, exporter: Exporter, options: ExportOptions, progress: Progress) -> ModelComponent:
    with progress.stage(f"load {name}"):
        return model.component(name, attention=options.attention_of(exporter))


def _exported(
    model: Model,
    owned: list[ModelComponent],
    bundle: Bundle,
    strategy: Strategy,
    options: ExportOptions,
    goldens: Sequence[Golden],
    parameters: int,
    progress: Progress,
    tried: dict[str, str],
) -> Component:
    """Export by one strategy, prove the file, and put it into the bundle. The component is taken out of ``owned``, so
    that nothing holds its weights while the file is proven.
    """
    part = owned.pop()
    name, opset, signature = part.name, options.opset_of(strategy.exporter), part.signature
    component = replace(_component(model, part, strategy.name, opset, options, parameters), tried=tried)
    scales = part.scales
    with bundle.adding(f"{name}/{SOURCE}") as added:
        file = added.path / "model.onnx"
        with progress.stage(f"export {name} by {strategy.name}"):
            written = write_onnx(part, file, strategy, opset, options.seed)
        unread = require_inputs_read(part, file, goldens[0], options.seed)
        signature = with_symbolic(signature, written.symbolic, goldens)
        stress = stress_samples(signature, part.inputs, goldens, partial(answers_of, part), file)
        swept = part if part.inner else None  # a user's network stays in memory anyway
        del part
        gc.collect()  # the exporters leave cycles that hold the weights
        save_goldens(added.path / GOLDENS, goldens)
        save_stress(added.path, stress)
        save_scales(added.path, scales)
        judge = judge_by(signature, component.answers, goldens, file, usual_tolerance(file))
        require_valid(file, strategy, opset)
        with reference_runtime().open(file, signature) as session:
            prove_answers(session, goldens, judge, progress)
            doubtful = written.doubt.sizes if written.doubt else ()
            all_sizes = swept is not None and sweep(swept, session, judge, options.seed, progress, doubtful)
        if written.doubt and not all_sizes:
            raise baked_in(written.doubt)
    for input_name in unread:
        progress.note(f"input {input_name} of {name} is not used: the network's answers do not depend on it")
    component = replace(
        component,
        signature=signature,
        model=f"{added.folder}/model.onnx",
        goldens=f"{added.folder}/{GOLDENS}",
    )
    bundle.commit(bundle.manifest.with_component(component), added.files)
    return component


def _said(attempts: Sequence[Attempt]) -> dict[str, str]:
    """Strategy -> why it did not end in a proof, for the manifest."""
    return {attempt.strategy.name: without_folders(attempt.error.message) for attempt in attempts}


def _reason(attempts: Sequence[Attempt]) -> TorchliftError:
    """The error to show where nothing succeeded: of what names a line or an axis before what only says that it
    failed.
    """
    errors = [attempt.error for attempt in attempts]
    telling = [error for error in errors if isinstance(error, BakedInError) and ", line " in error.message]
    telling += [error for error in errors if isinstance(error, BakedInError) and error.axes]
    telling += [error for error in errors if isinstance(error, BakedInError)]
    found = (telling or errors)[0]
    for attempt in attempts:
        if hasattr(found, "add_note"):  # Python 3.11 and later show notes with a traceback
            found.add_note(f"{attempt.strategy}: {attempt.error.message}")
    return found
