"""Hides what libraries say of themselves: bars, warnings, dumps. What a user's code prints is shown."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

LIBRARIES = frozenset(
    {
        "accelerate",
        "huggingface_hub",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "timm",
        "torch",
        "torchvision",
        "transformers",
    }
)
"""The packages whose output is hidden."""

_HEARD = "transformers.utils.loading_report"
"""It says which weights a checkpoint lacks. They are random then, which a user must know."""

_CARRIERS = frozenset({"_py_warnings", "contextlib", "logging", "threading", "tqdm", "warnings"})
"""Packages that write what others tell them. Who told them counts."""


@contextlib.contextmanager
def libraries_quiet() -> Iterator[None]:
    """Hide what ``LIBRARIES`` write to standard output and standard error while the block runs, in all threads.

    For example the bar ``Loading weights`` of transformers, or the graph that torch prints before it raises. A warning
    that a library raises is hidden, one of the user's own code is shown. Errors are exceptions, and pass.
    """
    out: Any = _Filtered(sys.stdout)
    err: Any = _Filtered(sys.stderr)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _handlers_filtered(),
        warnings.catch_warnings(),
    ):
        for library in LIBRARIES:
            warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
        yield


class _Filtered:
    """A stream that passes on what is written to it, but for what a library writes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if _from_library(sys._getframe(1)) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _from_library(frame: FrameType | None) -> bool:
    """Whether the code that writes, or that told a carrier what to write, is of a library."""
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        package = module.partition(".")[0]
        if package not in _CARRIERS:
            return package in LIBRARIES and module != _HEARD
        frame = frame.f_back
    return True  # a thread of a carrier: tqdm draws bars anew


@contextlib.contextmanager
def _handlers_filtered() -> Iterator[None]:
    """Filter the handlers too that libraries made before: they keep the stream of that time."""
    loggers = [logging.getLogger(name) for name in LIBRARIES if name in logging.root.manager.loggerDict]
    handlers = [h for logger in loggers for h in logger.handlers if type(h) is logging.StreamHandler]
    before = [handler.setStream(_Filtered(handler.stream)) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)
