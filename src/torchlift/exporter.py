"""Takes a component from PyTorch to ONNX, and proves the file: nothing baked in, PyTorch's answers at every shape."""

from __future__ import annotations

import functools
import gc
import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch

from torchlift.backends import Session, module_runtime, reference_runtime
from torchlift.bundle import SOURCE, Bundle
from torchlift.checksums import key_of
from torchlift.errors import BakedInError, ExportError, StorageError, TorchliftError, VerificationError
from torchlift.evidence import GoldenCheck
from torchlift.families.base import Model, ModelComponent
from torchlift.families.tracing import distinct_sizes, example_inputs, explained, is_dynamic, quiet, trace
from torchlift.graph.clean import ForgetOrigin, NameAxes
from torchlift.graph.files import save_model
from torchlift.graph.inspect import baked_in, read_facts
from torchlift.graph.scales import save_scales
from torchlift.machine import installed_version
from torchlift.manifest import Component, Graph
from torchlift.messages import failure_text
from torchlift.progress import SILENT, Progress
from torchlift.prove.goldens import Golden, load_goldens, require_signal, save_goldens
from torchlift.prove.numerics import TOLERANCES, failures, verify_goldens
from torchlift.signature import CORNERS, Signature
from torchlift.storage import require_space, without_folders

Exporter = Literal["dynamo", "torchscript"]

DEFAULT_OPSET: dict[Exporter, int] = {"dynamo": 20, "torchscript": 16}
"""20 has Gelu; 16 is the last without LayerNormalization, which old parsers (TensorRT 8.5) do not know."""

_OPSETS: dict[Exporter, range] = {"dynamo": range(18, 26), "torchscript": range(11, 21)}
"""The opsets that each exporter really writes; dynamo answers a lower number with 18, in silence."""

_ATTENTION_OPSET = 23
"""The first that has the operator Attention."""

_MAKERS = ("torchlift", "torch", "onnx-ir", "onnxscript", "transformers")
"""The distributions whose release decides what an export writes."""

_COPIES: dict[Exporter, int] = {"dynamo": 1, "torchscript": 2}
"""How many copies of the weights the disk must hold: TorchScript's exporter writes files of its own first."""

PROGRAM = module_runtime().program
"""The form that :func:`export_program` writes."""

_NO_MEMORY = re.compile(r"allocat|bad.?alloc|out of memory", re.IGNORECASE)
"""How the runtimes word it, each in another type of exception."""


@dataclass(frozen=True)
class ExportOptions:
    """``opset`` None is the exporter's default; ``seed``, 0 or more, draws the goldens."""

    exporter: Exporter = "dynamo"
    opset: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ExportError(f"the seed {self.seed} is negative", remedy="Use 0 or more.")
        opsets = _OPSETS[self.exporter]
        if self.version not in opsets:
            other = next((e for e, r in _OPSETS.items() if self.version in r), None)
            instead = f"use `exporter={other}`, or " if other else ""
            raise ExportError(
                f"the {self.exporter} exporter does not write opset {self.version}",
                remedy=f"Instead, {instead}choose an opset from {opsets[0]} to {opsets[-1]}.",
            )

    @property
    def version(self) -> int:
        return DEFAULT_OPSET[self.exporter] if self.opset is None else self.opset

    @property
    def attention(self) -> str:
        """How the network is to write attention; TorchScript's exporter has no opset with the operator."""
        if self.exporter == "torchscript":
            return "eager"
        return "node" if self.version >= _ATTENTION_OPSET else "sdpa"


def export_key(model: Model, component: str, options: ExportOptions) -> str:
    """The hash of all that an export depends on."""
    return key_of(model.key, component, options, [installed_version(name) for name in _MAKERS])


def export_component(
    model: Model, name: str, bundle: Bundle, options: ExportOptions | None = None, progress: Progress = SILENT
) -> Component:
    """Export one component into the bundle, with its goldens, and return what the manifest now says of it.

    The component's weights are let go before the file is proven, so that ONNX Runtime's copy does not come on top.
    Raises BakedInError where an input or an axis turned constant, NoSignalError where PyTorch's answers are all zero,
    VerificationError where the file answers otherwise than PyTorch, ExportError for all else that goes wrong.
    """
    options = options or ExportOptions()
    with progress.stage(f"load {name}"):
        part = model.component(name, attention=options.attention)
    signature, scales, parameters = part.signature, part.scales, sum(p.numel() for p in part.reference.parameters())
    inputs, answers = dict(part.inputs), dict(part.answers)
    require_space(bundle.path, 4 * parameters * _COPIES[options.exporter])
    goldens = _goldens(part, options.seed, progress)
    with bundle.adding(f"{name}/{SOURCE}") as added:
        file = added.path / "model.onnx"
        with progress.stage(f"export {name}"):
            _export(part, file, options)
        del part
        gc.collect()  # the exporters leave cycles that hold the weights
        save_goldens(added.path / "goldens.safetensors", goldens)
        save_scales(added.path, scales)
        _prove(file, signature, options, goldens, progress)
    component = Component(
        name=name,
        signature=signature,
        model=f"{added.folder}/model.onnx",
        goldens=f"{added.folder}/goldens.safetensors",
        exporter=options.exporter,
        opset=options.version,
        parameters=parameters,
        key=export_key(model, name, options),
        inputs=inputs,
        answers=answers,
        assets={role: hashlib.sha256(content).hexdigest() for role, (_, content) in model.assets.items()},
    )
    bundle.commit(bundle.manifest.with_component(component), added.files)
    return component


def export_program(model: Model, name: str, bundle: Bundle, progress: Progress = SILENT) -> Graph:
    """Write a component that was exported as a torch.export program too, for targets that have torch, unless the bundle
    has it, and return what the manifest now says of it.

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
            _write_program(model, component, added.path / PROGRAM.model, progress)
            _prove_program(added.path / PROGRAM.model, bundle, component, progress)
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


EXPORTERS: Mapping[str, Callable[[Model, str, Bundle, Progress], Graph]] = {PROGRAM.name: export_program}
"""What exports a form besides a component's ONNX graph, by the form's name: of a model, the component of that name."""


def _write_program(model: Model, component: Component, file: Path, progress: Progress) -> None:
    """The style ``node`` of attention is torch's own, which runs as one kernel."""
    with progress.stage(f"load {component.name}"):
        part = model.component(component.name, attention="node")
    with progress.stage(f"export {component.name} as a program"), quiet():
        try:
            with torch.no_grad():
                module_runtime().write_program(trace(part, example_inputs(part)), file)
        except (TorchliftError, OSError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a user's network may end in sys.exit
            raise explained(error, part.signature, "Leave the backend pytorch out.") from error


def _prove_program(file: Path, bundle: Bundle, component: Component, progress: Progress) -> None:
    gc.collect()
    with module_runtime().open_program(file, component.signature) as session:
        _prove_answers(session, [*load_goldens(bundle, component).values()], progress)


def _goldens(part: ModelComponent, seed: int, progress: Progress) -> list[Golden]:
    signature = part.signature
    goldens = []
    with progress.stage(f"answers of PyTorch for {part.name}", len(CORNERS)) as stage:
        for number, corner in enumerate(CORNERS):
            feeds = _drawn(part, signature.sizes(corner), np.random.default_rng([seed, number]))
            goldens.append(Golden(corner, feeds, _answers(part, feeds)))
            stage.advance()
    require_signal(goldens)
    return goldens


def _drawn(part: ModelComponent, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples, which must be of the sizes that are asked for: at a corner of the ranges they prove that corner."""
    try:
        feeds = part.sample(sizes, rng)
    except MemoryError as error:
        raise _no_memory(sizes, error) from error
    found = part.signature.check(feeds)
    if any(size != sizes[axis] for axis, size in found.items()):
        raise ExportError(
            f"the samples are of {_at(found)}, and {_at(sizes)} was asked for",
            remedy="What draws them (sample=) must return arrays of the sizes that it is given.",
        )
    return feeds


def _answers(part: ModelComponent, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's answers, which must be what the signature says."""
    signature = part.signature
    sizes = signature.check(feeds)
    try:
        with torch.inference_mode():
            answers = part.reference(*(torch.tensor(feeds[n]) for n in signature.input_names))
    except (TorchliftError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a user's network may end in sys.exit
        if _is_memory(error):
            raise _no_memory(sizes, error) from error
        raise ExportError(
            f"the network does not run at {_at(sizes)}: {type(error).__name__}: {error}",
            remedy=_narrower(signature, sizes),
        ) from error
    tensors = answers if isinstance(answers, tuple) else (answers,)
    outputs = {n: t.numpy() for n, t in zip(signature.output_names, tensors, strict=True)}
    for spec in signature.outputs:
        output = outputs[spec.name]
        if not spec.fits(output, sizes):
            raise ExportError(
                f"output {spec.name} is {output.dtype}{list(output.shape)} at {_at(sizes)}, it must be {spec}",
                remedy=_narrower(signature, sizes),
            )
    return outputs


def _at(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "the shapes of its inputs"


def _narrower(signature: Signature, sizes: Mapping[str, int]) -> str:
    """What to do where a network does not hold at ``sizes`` what its ranges promise."""
    axis = next((a for a in reversed(signature.axes) if is_dynamic(a)), None)
    if axis is None:
        return "Correct the network, or the shapes and the sample of its inputs."
    too_small = sizes.get(axis.name, axis.opt) < axis.opt
    verb, low, high = ("Raise", axis.opt, axis.max) if too_small else ("Lower", axis.min, axis.opt)
    return f"{verb} the range to what the network takes, for example `axes={axis.name}={low}..{axis.opt}..{high}`."


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def _no_memory(sizes: Mapping[str, int], error: BaseException) -> ExportError:
    return ExportError(
        f"the memory does not suffice at {_at(sizes)}: {str(error).strip().partition(chr(10))[0]}",
        remedy="Lower the maximum of an axis with `axes=`, or use a machine with more memory.",
    )


def _export(part: ModelComponent, file: Path, options: ExportOptions) -> None:
    arguments = example_inputs(part, options.seed)
    writers: dict[Exporter, Callable[..., ir.Model]] = {
        "dynamo": _dynamo,
        "torchscript": functools.partial(_torchscript, folder=file.parent),
    }
    try:
        with quiet():
            model = writers[options.exporter](part, arguments, options.version)
    except (TorchliftError, OSError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a user's network may end in sys.exit
        other = next(e for e in _OPSETS if e != options.exporter)
        remedy = f"Try `exporter={other}`. The traceback has the exporter's whole account."
        raise explained(error, part.signature, remedy) from error
    ForgetOrigin()(model)
    NameAxes(part.signature)(model)
    save_model(model, file)
    for value in model.graph.initializers.values():
        value.const_value = None  # onnxscript's rewriter keeps the last graph that it saw


def _dynamo(part: ModelComponent, arguments: tuple[torch.Tensor, ...], opset: int) -> ir.Model:
    exported = torch.onnx.export(
        trace(part, arguments),
        input_names=list(part.signature.input_names),
        output_names=list(part.signature.output_names),
        opset_version=opset,
        dynamo=True,
        external_data=True,
        verbose=False,
    )
    if exported is None:
        raise ExportError("the exporter returned nothing", remedy="Try `exporter=torchscript`.")
    return exported.model


def _torchscript(part: ModelComponent, arguments: tuple[torch.Tensor, ...], opset: int, folder: Path) -> ir.Model:
    from onnxscript import optimizer

    signature = part.signature
    dynamic = {a.name for a in signature.axes if is_dynamic(a)}
    axes = {
        spec.name: {i: d for i, d in enumerate(spec.shape) if isinstance(d, str) and d in dynamic}
        for spec in (*signature.inputs, *signature.outputs)
    }
    part.exported.eval()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        loose = Path(temporary) / "loose.onnx"
        torch.onnx.export(
            part.exported,
            arguments,
            loose,
            input_names=list(signature.input_names),
            output_names=list(signature.output_names),
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )
        model = ir.load(loose)
        optimizer.optimize(model)
        ir.external_data.load_to_model(model)
    return model


def _prove(file: Path, signature: Signature, options: ExportOptions, goldens: list[Golden], progress: Progress) -> None:
    import onnx

    facts = read_facts(file)
    if facts.opset != options.version:
        raise ExportError(
            f"opset {options.version} was asked for, the {options.exporter} exporter wrote opset {facts.opset}",
            remedy=f"Ask for `opset={facts.opset}`, or try another `exporter=`.",
        )
    constant = baked_in(facts, signature)
    if constant:
        raise BakedInError(
            f"the exported graph is not what the signature says: {'; '.join(constant)}",
            remedy="Compute with tensors where a value may vary: Python numbers (int(), .item()) become constants.",
        )
    try:
        onnx.checker.check_model(str(file))
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}", remedy="Try another `opset=`.") from error
    with reference_runtime().open(file, signature) as session:
        _prove_answers(session, goldens, progress)


def _prove_answers(session: Session, goldens: Sequence[Golden], progress: Progress) -> None:
    with progress.stage("check the file at every golden", len(goldens)) as stage:
        for golden in goldens:
            wrong = failures(_checked(session.run, golden, session.signature), TOLERANCES["fp32"])
            if wrong:
                raise VerificationError(
                    f"the exported graph does not answer as PyTorch does: {'; '.join(map(failure_text, wrong))}",
                    remedy="Something in the network depends on Python values or on the traced shapes.",
                )
            stage.advance()


def _checked(
    run: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]], golden: Golden, signature: Signature
) -> tuple[GoldenCheck, ...]:
    try:
        return verify_goldens(run, [golden])
    except Exception as error:
        asked, traced = signature.check(golden.inputs), distinct_sizes(signature.axes)
        if _is_memory(error):
            raise _no_memory(asked, error) from error
        other = ", ".join(f"{name} {size} (traced at {traced[name]})" for name, size in asked.items())
        detail = error.message if isinstance(error, TorchliftError) else str(error).strip()
        raise BakedInError(
            f"the exported graph does not run at {other or 'the shapes that were traced'}: {detail}",
            remedy="A size was turned into a constant where the network was traced: use tensor operations for it.",
        ) from error
