"""The runtimes, by name. Importing this imports none of them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

from torchlift.backends.base import (
    Arrays,
    Backend,
    Call,
    Compilation,
    CompileOptions,
    LayerTime,
    Session,
    SessionOptions,
)
from torchlift.errors import BackendUnavailableError
from torchlift.forms import Form
from torchlift.machine import Availability

if TYPE_CHECKING:
    from torchlift.backends.onnxruntime import OnnxRuntimeCpu
    from torchlift.backends.pytorch import PyTorch

__all__ = [
    "BACKENDS",
    "Arrays",
    "Availability",
    "Backend",
    "Call",
    "Compilation",
    "CompileOptions",
    "LayerTime",
    "Session",
    "SessionOptions",
    "backend",
    "forms",
    "module_runtime",
    "reference_runtime",
]

BACKENDS = {
    "onnxruntime": "torchlift.backends.onnxruntime:OnnxRuntimeCpu",
    "onnxruntime-cuda": "torchlift.backends.onnxruntime:OnnxRuntimeCuda",
    "onnxruntime-tensorrt": "torchlift.backends.onnxruntime:OnnxRuntimeTensorRt",
    "tensorrt": "torchlift.backends.tensorrt:TensorRt",
    "openvino": "torchlift.backends.openvino:OpenVino",
    "pytorch": "torchlift.backends.pytorch:PyTorch",
}
"""Backend name -> ``module:class``; the order is that of tables."""


@functools.cache
def backend(name: str) -> Backend:
    """The backend of that name, whether or not it is available here. Raises BackendUnavailableError for an unknown."""
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise BackendUnavailableError(
            f"there is no backend {name!r}", remedy=f"{hint}The backends are {', '.join(BACKENDS)}."
        )
    module, _, attribute = BACKENDS[name].partition(":")
    found: Backend = getattr(import_module(module), attribute)()
    return found


def reference_runtime() -> OnnxRuntimeCpu:
    """The runtime that opens an FP32 graph on every machine that has torchlift. An export is proven with it, ranges are
    found with it, and its answers stand for those of PyTorch where PyTorch is not at hand.
    """
    return cast("OnnxRuntimeCpu", backend("onnxruntime"))


def module_runtime() -> PyTorch:
    """The runtime of networks themselves, which are what variants are compared and measured with."""
    return cast("PyTorch", backend("pytorch"))


@functools.cache
def forms() -> Mapping[str, Form]:
    """Every form that a backend builds a variant from, by name."""
    return {r.form.name: r.form for name in BACKENDS for r in backend(name).recipes.values()}
