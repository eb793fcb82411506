"""The runtimes, by name. Importing this imports none of them."""

from __future__ import annotations

import difflib
import functools
from importlib import import_module

from torchlift.backends.base import (
    Arrays,
    Availability,
    Backend,
    Call,
    Compilation,
    CompileOptions,
    LayerTime,
    Session,
    SessionOptions,
)
from torchlift.errors import BackendUnavailableError

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
