"""Writes a component as an ONNX file by one strategy."""

from __future__ import annotations

import contextlib
import linecache
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from torchlift.errors import ExportError, TorchliftError
from torchlift.exporter.explain import explained, quiet, reads_value
from torchlift.exporter.guards import Doubt, doubt_of
from torchlift.exporter.shapes import symbolic_outputs
from torchlift.exporter.strategies import Strategy, captured
from torchlift.exporter.values import users_line, value_reads
from torchlift.families.base import ModelComponent
from torchlift.families.module.binding import Called
from torchlift.families.sizes import distinct_sizes, is_dynamic
from torchlift.graph.clean import ForgetOrigin, ForgetWrapper
from torchlift.graph.ends import name_ends
from torchlift.graph.files import save_model

_INPUT = "torchlift_input_"
"""What a graph's inputs are called until they get the signature's names: a name of an input may be one inside the
graph.
"""

Symbolic = list[list[str | None]]


@dataclass(frozen=True)
class Written:
    """What a strategy found out: each output's sizes as expressions of axes, where it finds these, and the ``doubt``
    that the file has one side of a branch on a size.
    """

    symbolic: Symbolic
    doubt: Doubt | None = None


def example_inputs(part: ModelComponent, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with, by position. Their sizes are those of :func:`distinct_sizes`."""
    feeds = part.sample(distinct_sizes(part.signature.axes), np.random.default_rng(seed))
    return tuple(torch.from_numpy(feeds[name]) for name in part.signature.input_names)


def write_onnx(part: ModelComponent, file: Path, strategy: Strategy, opset: int, seed: int) -> Written:
    """Write ``part`` to ``file``; returns what the strategy found out.

    Raises ExportError, which says what of the network cannot be exported.
    """
    arguments = example_inputs(part, seed)
    symbolic: Symbolic = []
    program, doubt = None, None
    try:
        with quiet(), torch.no_grad():
            if strategy.exporter == "dynamo":
                program = captured(part, arguments, strategy)
                doubt = doubt_of(program, part.signature)
                symbolic = symbolic_outputs(program, part.signature)
                model = _dynamo(part, program, opset)
            else:
                model, doubt = _torchscript(part, arguments, opset, file.parent, strategy)
    except (TorchliftError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a user's network may end in sys.exit
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk is full, for example
        raise explained(error, part.signature, "Write this part with operators that ONNX has.", program) from error
    given = [value.name or "" for value in model.graph.inputs]
    names = [part.signature.input_names[int(name.removeprefix(_INPUT))] for name in given]
    name_ends(model, part.signature, names)
    ForgetOrigin()(model)
    if part.inner:
        ForgetWrapper(part.inner)(model)
    save_model(model, file)
    for value in model.graph.initializers.values():
        value.const_value = None  # onnxscript's rewriter keeps the last graph that it saw
    return Written(symbolic, doubt)


def _input_names(part: ModelComponent) -> list[str]:
    return [f"{_INPUT}{position}" for position in range(len(part.signature.inputs))]


def _dynamo(part: ModelComponent, program: torch.export.ExportedProgram, opset: int) -> ir.Model:
    exported = torch.onnx.export(
        program,
        input_names=_input_names(part),
        opset_version=opset,
        dynamo=True,
        external_data=True,
        verbose=False,
    )
    if exported is None:
        raise ExportError("the exporter returned nothing", remedy="Use another release of torch.")
    return exported.model


def _torchscript(
    part: ModelComponent, arguments: tuple[torch.Tensor, ...], opset: int, folder: Path, strategy: Strategy
) -> tuple[ir.Model, Doubt | None]:
    """The graph, and the first line that branches on a size, of which a trace has one side, as a doubt.

    Raises BakedInError where a trace would have a value of the inputs as a constant: a golden may not show that.
    """
    from onnxscript import optimizer

    network = part.exported
    if strategy.scripted:
        network = _scripted(part, arguments)
    elif _is_scripted_whole(network):
        network = torch.jit.trace(network, arguments, check_trace=False)  # code that was scripted stays as it is
    elif lines := value_reads(network, arguments):
        raise reads_value(lines[0])
    signature = part.signature
    dynamic = {a.name for a in signature.axes if is_dynamic(a)}
    names = _input_names(part)
    axes = {
        name: {i: d for i, d in enumerate(spec.shape) if isinstance(d, str) and d in dynamic}
        for name, spec in zip(names, signature.inputs, strict=True)
    }
    outputs = [f"torchlift_output_{position}" for position in range(len(signature.outputs))]
    for name, spec in zip(outputs, signature.outputs, strict=True):
        axes[name] = {i: f"{name}_{i}" for i, d in enumerate(spec.shape) if not isinstance(d, int)}
    network.eval()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        loose = Path(temporary) / "loose.onnx"
        with _branches_on_sizes() as lines:
            torch.onnx.export(
                network,
                arguments,
                loose,
                input_names=names,
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=opset,
                dynamo=False,
            )
        model = ir.load(loose)
        optimizer.optimize(model)
        ir.external_data.load_to_model(model)
    return model, Doubt(lines[0]) if lines and network is part.exported else None


def _is_scripted_whole(network: nn.Module) -> bool:
    """Whether all of the network's code was scripted: what a trace keeps of it has its branches."""
    inner = network.network if isinstance(network, Called) else network
    return isinstance(inner, torch.jit.ScriptModule)


@contextlib.contextmanager
def _branches_on_sizes() -> Iterator[list[str]]:
    """The lines that branch on a size while the block traces: the trace has one side only.

    torch warns of each tensor that becomes a Python boolean; while it traces, sizes are tensors too, also those that
    never vary. Branches within torch's own layers do not count.
    """
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", torch.jit.TracerWarning)
        yield lines
    for warning in said:
        place = (warning.filename, warning.lineno, "", linecache.getline(warning.filename, warning.lineno).strip())
        line = users_line(traceback.StackSummary.from_list([place]))
        if line and any(told in str(warning.message) for told in ("Python boolean", "Using len")):
            lines.append(line)


def _scripted(part: ModelComponent, arguments: tuple[torch.Tensor, ...]) -> nn.Module:
    """The component's network with its code compiled by torch.jit, called as before: branches and loops stay."""
    if not isinstance(part.exported, Called):
        return torch.jit.script(part.exported)
    called = part.exported
    compiled = Called(torch.jit.script(called.network), called.binding, called.outputs)
    return torch.jit.trace(compiled, arguments, check_trace=False)
