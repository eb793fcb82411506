"""The ways in which a network can be exported, in the order in which they are tried."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as shapes_config

from torchlift.exporter.options import Exporter, ExportOptions
from torchlift.families.base import ModelComponent
from torchlift.families.module.networks import is_scripted
from torchlift.families.sizes import is_dynamic
from torchlift.signature import Axis, Signature


@dataclass(frozen=True)
class Strategy:
    """One way to export.

    - ``exporter``: what writes the ONNX graph. ``dynamo`` traces by torch.export, ``torchscript`` by torch.jit.
    - ``strict``: torch.export reads the network's bytecode, so that code of other libraries, such as numpy, is traced.
    - ``free``: torch.export finds by itself which sizes vary. Else it is told the ranges, and proves that they hold.
    - ``scripted``: torch.jit compiles the network's code, with its branches and loops. Else it is traced.
    """

    name: str
    exporter: Exporter
    strict: bool = False
    free: bool = False
    scripted: bool = False

    def __str__(self) -> str:
        return self.name


STRATEGIES = (
    Strategy("dynamo", "dynamo"),
    Strategy("dynamo-free", "dynamo", free=True),
    Strategy("dynamo-strict", "dynamo", strict=True),
    Strategy("dynamo-strict-free", "dynamo", strict=True, free=True),
    Strategy("torchscript", "torchscript"),
    Strategy("torchscript-scripted", "torchscript", scripted=True),
)

_RECURRENT = (nn.RNNBase,)
"""Layers that TorchScript's exporter writes as one operator, and torch.export as a loop of many, which is slower."""


def strategies_for(part: ModelComponent, options: ExportOptions) -> list[Strategy]:
    """The strategies to try for a component, the most promising first.

    A network with recurrent layers is traced by TorchScript first, since ONNX's LSTM and GRU run many times as fast as
    a loop. What is scripted can only be exported so.
    """
    found = [strategy for strategy in STRATEGIES if strategy.exporter in options.exporters]
    if is_scripted(part.exported):
        return [strategy for strategy in found if strategy.exporter == "torchscript"] or found
    if any(isinstance(module, _RECURRENT) for module in part.exported.modules()):
        found.sort(key=lambda strategy: strategy.exporter != "torchscript")
    return found


def captured(
    part: ModelComponent, arguments: tuple[torch.Tensor, ...], strategy: Strategy = STRATEGIES[0]
) -> torch.export.ExportedProgram:
    """Trace the component's ``exported`` network to a program of ATen's operators.

    Raises what torch.export raises. The program may not hold at all sizes: see :mod:`torchlift.exporter.guards`.
    """
    signature = part.signature
    dims = _free_dims(signature) if strategy.free else _ranges(signature)
    shapes = tuple(
        {i: dims[d] for i, d in enumerate(spec.shape) if isinstance(d, str) and d in dims} for spec in signature.inputs
    )
    relaxed = strategy.strict or strategy.free
    with _loops_for_recurrent_layers(), _sizes_of_one() if relaxed else contextlib.nullcontext():
        return torch.export.export(
            part.exported,
            arguments,
            dynamic_shapes=(shapes,) if _takes_any(part.exported) else shapes,
            strict=strategy.strict,
            prefer_deferred_runtime_asserts_over_guards=relaxed,
        )


def _takes_any(network: nn.Module) -> bool:
    """Whether ``forward`` takes ``*tensors``: torch.export then wants the shapes in a tuple of their own."""
    kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
    return kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]


def _ranges(signature: Signature) -> dict[str, Any]:
    return {axis.name: _dim(axis) for axis in signature.axes if is_dynamic(axis)}


def _dim(axis: Axis) -> Any:
    """An axis as a dimension of torch.export. One with a step is that many times a dimension of its own."""
    if axis.step == 1:
        return torch.export.Dim(axis.name, min=axis.min, max=axis.max)
    steps = torch.export.Dim(f"{axis.name}_steps", min=axis.min // axis.step, max=axis.max // axis.step)
    return axis.step * steps


def _free_dims(signature: Signature) -> dict[str, Any]:
    return {axis.name: torch.export.Dim.AUTO for axis in signature.axes if is_dynamic(axis)}


@contextlib.contextmanager
def _loops_for_recurrent_layers() -> Iterator[None]:
    """Trace LSTM and GRU as loops, whose length may vary; without this torch.export unrolls them, where it has it."""
    try:
        from torch.export._patches import (
            register_gru_while_loop_decomposition,
            register_lstm_while_loop_decomposition,
        )
    except ImportError:
        yield
        return
    with register_lstm_while_loop_decomposition(), register_gru_while_loop_decomposition():
        yield


@contextlib.contextmanager
def _sizes_of_one() -> Iterator[None]:
    """Let a size that may vary be 1 too, where this release of torch can."""
    if not hasattr(shapes_config, "backed_size_oblivious"):
        yield
        return
    with shapes_config.patch(backed_size_oblivious=True):
        yield
