"""TensorRT logs its errors and does not raise them. This module makes exceptions of them, with what to do."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torchlift.errors import BackendError, BackendUnavailableError, DeviceMemoryError, ParserError

_REASONS: tuple[tuple[re.Pattern[str], type[BackendError], str], ...] = (
    (
        re.compile(r"out ?of ?memory", re.IGNORECASE),
        DeviceMemoryError,
        "End other programs on the GPU, narrow the profiles, or bound the scratch memory with `workspace=`.",
    ),
    (
        re.compile(r"insufficient workspace|Could not find any implementation for node", re.IGNORECASE),
        BackendError,
        "Allow more by `workspace=`, or leave it out; else use another backend for this graph.",
    ),
)
"""A pattern in the log of a failed build, the error to raise, and its remedy."""

_UNKNOWN = re.compile(r"Plugin not found|No importer registered", re.IGNORECASE)
"""The parser's message for an operator that it does not have. Its error code is the same for all refused nodes."""

_REMEDY = "Use another backend for this graph, or another release of TensorRT."


@dataclass(frozen=True)
class ParserProblem:
    """An error of the ONNX parser. ``node`` is the position of the node in the graph, -1 where there is none."""

    code: str
    node: int
    said: str


def parser_error(problems: Sequence[ParserProblem], nodes: Sequence[tuple[str, str]], version: str) -> ParserError:
    """One error for all problems of the parser. ``nodes`` are (name, operator) of the graph's nodes, in order."""
    first = problems[0] if problems else ParserProblem("", -1, "it gave no reason")
    where = "the graph"
    if 0 <= first.node < len(nodes):
        name, operator = nodes[first.node]
        where = f"{operator} ({name})"
    more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
    unknown = _UNKNOWN.search(first.said)
    remedy = "export again with `exporter=torchscript` `opset=16`, or use another backend."
    return ParserError(
        f"TensorRT {version} cannot read {where}: {first.said}{more}",
        remedy=f"Give a library that has the operator with `plugins=`, {remedy}" if unknown else remedy.capitalize(),
    )


def build_error(errors: Sequence[str], version: str) -> BackendError:
    """The error for a build that gave no engine, from what TensorRT logged."""
    said = errors[-1] if errors else "it gave no reason"
    for pattern, kind, remedy in _REASONS:
        telling = next((text for text in errors if pattern.search(text)), None)
        if telling is not None:
            return kind(f"TensorRT {version} built no engine: {telling}", remedy=remedy)
    return BackendError(f"TensorRT {version} built no engine: {said}", remedy=_REMEDY)


@functools.cache
def logger() -> Any:
    """The logger of this process, since TensorRT wants only one.

    ``errors`` are the texts of its errors, oldest first.
    """
    import tensorrt as trt

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def last(self) -> str:
            return self.errors[-1] if self.errors else "TensorRT gave no reason"

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(text)

    return Logger()


def start(kind: Callable[[Any], Any]) -> Any:
    """Create TensorRT's builder or runtime.

    Raises BackendUnavailableError where CUDA does not start. The bindings raise a TypeError for that, and only the log
    has the reason.
    """
    log = logger()
    log.errors.clear()
    try:
        return kind(log)
    except TypeError as error:
        raise BackendUnavailableError(
            f"TensorRT does not start: {log.last()}",
            remedy="See `torchlift doctor`: the driver may be too old for this release of TensorRT.",
        ) from error
