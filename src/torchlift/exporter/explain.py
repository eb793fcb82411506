"""Explains in the user's terms why an export failed, and keeps the exporters quiet."""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
import warnings
from collections.abc import Iterator

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from torchlift.errors import BakedInError, ExportError
from torchlift.exporter.guards import in_axes
from torchlift.exporter.values import users_line
from torchlift.families.quiet import libraries_quiet
from torchlift.signature import Signature

_CHATTY = (
    "torch.onnx",
    "torch.export",
    "torch._export",
    "torch._dynamo",
    "torch._guards",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)

_MISSING = re.compile(
    r"No ONNX function found for <OpOverload\(op='([\w.]+)'|exporting the operator '([\w:]+)' to ONNX"
)
"""How the exporters say that an operator has no ONNX form."""

_TWO_WAYS = (
    "Compute with tensors: torch.where in place of an if on a value, torch.cond or torch.while_loop where only one "
    "side may be computed. Do without int(), float(), .item() and .tolist()."
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress logs, dumps and all warnings while an exporter runs. Failures are exceptions anyway."""
    loggers = [logging.getLogger(n) for n in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with libraries_quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def explained(
    error: BaseException, signature: Signature, remedy: str, program: torch.export.ExportedProgram | None = None
) -> ExportError:
    """Turn an exporter's exception into an error that names the axis or the line at fault.

    ``remedy`` is for other causes. ``program`` is what was traced before the exporter failed, if it came so far.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    axes = [a.name for a in signature.axes if re.search(rf"\b{re.escape(a.name)}(_steps)?\b", str(error))]
    if "onstraints violated" in lines[0] and axes:
        found = next((line.strip(" -") for line in lines if line.startswith("- ")), lines[0])
        detail = in_axes(found, signature)
        return BakedInError(
            f"axis {' and '.join(axes)} turned constant in the export: {detail.partition('. If ')[0]:.300}",
            remedy=_for_axes(lines, axes, signature),
            axes=axes,
        )
    if isinstance(error, GuardOnDataDependentSymNode) or _depends_on_values(error):
        return reads_value(_where(error).removeprefix(": "))
    missing = _MISSING.search(str(error))
    if missing:
        operator = missing[1] or missing[2]
        return ExportError(
            f"the operator {operator} has no ONNX form{_line_of(operator, program)}",
            remedy="Write this part with operators that ONNX has. Without them the network runs only where PyTorch is.",
        )
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = str(cause).strip().partition("\n")[0]
    return ExportError(
        f"PyTorch could not export the network: {type(cause).__name__}: {said:.300}{_where(cause)}", remedy=remedy
    )


def reads_value(line: str) -> BakedInError:
    """The error for a network that takes a value of its inputs as a Python number, at a line of its code."""
    return BakedInError(
        f"the network takes a value that may vary as a Python number{f': {line}' if line else ''}", remedy=_TWO_WAYS
    )


def _for_axes(lines: list[str], axes: list[str], signature: Signature) -> str:
    """What to do about axes that a network does not let vary: what torch suggests, in terms of axes."""
    steps = [match for line in lines if (match := re.match(r"(\w+) = (\d+)\*_?\w+$", line)) and match[1] in axes]
    if steps:
        name, step = steps[0][1], steps[0][2]
        return f"The network takes multiples of {step} only: declare Axis({name!r}, ..., step={step})."
    equal = [
        match for line in lines if (match := re.match(r"(\w+) = (\w+)$", line)) and {match[1], match[2]} <= {*axes}
    ]
    if equal:
        return f"{equal[0][1]} and {equal[0][2]} must be equal: use one axis for both."
    return (
        "Write the network without taking this size as a Python number (reshape with -1), or fix the axis, for example "
        f"`axes={axes[0]}={signature.axis(axes[0]).opt}`."
    )


def _depends_on_values(error: BaseException) -> bool:
    """Whether torch.export stopped at a Python value that depends on a tensor's, also deep within a chain of errors."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, GuardOnDataDependentSymNode) or re.search(r"data-dependent", str(found), re.IGNORECASE):
            return True
        found = found.__cause__ or found.__context__
    return False


def _line_of(operator: str, program: torch.export.ExportedProgram | None) -> str:
    """The line of the user's code that an operator of a traced program comes from; "" where that is not known."""
    name = re.split(r"[.:]+", operator)[-1]
    for node in program.graph.nodes if program is not None else ():
        if str(node.target).split(".")[1:2] in ([name], [f"special_{name}"]):
            frames = re.findall(r'File "([^"]+)", line (\d+), in .*\n\s+(.*)', node.meta.get("stack_trace") or "")
            summary = traceback.StackSummary.from_list([(file, int(number), "", code) for file, number, code in frames])
            line = users_line(summary)
            return f": {line}" if line else ""
    return ""


def _where(error: BaseException) -> str:
    """The line of the user's code at which an exporter stopped; "" where it does not say."""
    line = users_line(traceback.extract_tb(error.__traceback__))
    return f": {line}" if line else ""
