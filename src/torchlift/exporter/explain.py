"""Explains in the user's terms why an export failed, and keeps the exporters quiet."""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from torchlift.errors import BakedInError, ExportError
from torchlift.signature import Signature

_CHATTY = (
    "torch.onnx",
    "torch.export",
    "torch._export",
    "torch._dynamo",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)

_TWO_WAYS = (
    "Compute with tensors: torch.where in place of an if on a value, torch.cond or torch.while_loop where only one "
    "side may be computed. Do without int(), float(), .item() and .tolist()."
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress logs and warnings of the exporters while the block runs. Failures are exceptions anyway."""
    loggers = [logging.getLogger(n) for n in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def explained(error: BaseException, signature: Signature, remedy: str) -> ExportError:
    """Turn an exporter's exception into an error that names the axis or the line at fault.

    ``remedy`` is for other causes.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    axes = [a.name for a in signature.axes if re.search(rf"\b{re.escape(a.name)}(_steps)?\b", str(error))]
    if "onstraints violated" in lines[0] and axes:
        detail = next((line.strip(" -") for line in lines if line.startswith("- ")), lines[0])
        return BakedInError(
            f"axis {' and '.join(axes)} turned constant in the export: {detail.partition('. If ')[0]:.300}",
            remedy=_for_axes(lines, axes, signature),
            axes=axes,
        )
    if isinstance(error, GuardOnDataDependentSymNode) or _depends_on_values(error):
        return BakedInError(
            f"the network takes a value that may vary as a Python number{_where(error)}", remedy=_TWO_WAYS
        )
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    said = str(cause).strip().partition("\n")[0]
    return ExportError(
        f"PyTorch could not export the network: {type(cause).__name__}: {said:.300}{_where(cause)}", remedy=remedy
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


def _where(error: BaseException) -> str:
    """The last line of the user's code in the traceback of an error; "" where there is none."""
    own, torchs = Path(__file__).parents[1], Path(torch.__file__).parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.line and not {own, torchs} & {*Path(frame.filename).parents}
    ]
    last = next((f for f in reversed(frames) if "site-packages" not in f.filename), frames[-1] if frames else None)
    return "" if last is None else f": {Path(last.filename).name}, line {last.lineno}: {last.line:.120}"
