"""Traces a component by torch.export with dynamic axes, and explains in the user's terms why that fails."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from torchlift.errors import BakedInError, ExportError
from torchlift.families.base import ModelComponent
from torchlift.signature import Axis, Signature

_CHATTY = (
    "torch.onnx",
    "torch.export",
    "torch._export",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)


def is_dynamic(axis: Axis) -> bool:
    """Whether the axis has more than one size."""
    return axis.min < axis.max


def distinct_sizes(axes: Iterable[Axis]) -> dict[str, int]:
    """Axis name -> a size to trace with, near the optimum.

    As far as the ranges allow, no size is 1, and no two sizes are equal: tracers take 1 for a constant, and equal sizes
    for one axis.
    """
    axes = tuple(axes)
    candidates = {axis.name: _near_optimum(axis, len(axes)) for axis in axes}
    taken: dict[int, str] = {}

    def place(name: str, tried: set[int]) -> bool:
        """Give an axis a free size, or a taken one whose axis can move: bipartite matching by augmenting paths."""
        for size in sorted(candidates[name], key=taken.__contains__):
            if size not in tried:
                tried.add(size)
                if size not in taken or place(taken[size], tried):
                    taken[size] = name
                    return True
        return False

    for name in candidates:
        place(name, set())
    chosen = {name: size for size, name in taken.items()}
    return {name: chosen.get(name, sizes[0]) for name, sizes in candidates.items()}


def _near_optimum(axis: Axis, count: int) -> list[int]:
    """Up to ``count`` sizes of an axis, those near the optimum first. They are above 1, unless only 1 is possible."""
    sizes = itertools.chain(range(axis.opt, axis.max + 1), range(axis.opt - 1, axis.min - 1, -1))
    return list(itertools.islice((n for n in sizes if n > 1), count)) or [1]


def example_inputs(part: ModelComponent, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with, by position. Their sizes are those of :func:`distinct_sizes`."""
    feeds = part.sample(distinct_sizes(part.signature.axes), np.random.default_rng(seed))
    return tuple(torch.from_numpy(feeds[name]) for name in part.signature.input_names)


def trace(part: ModelComponent, arguments: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """Trace the component's ``exported`` network to a program of ATen's operators. Raises what torch.export raises."""
    signature = part.signature
    dims = {a.name: torch.export.Dim(a.name, min=a.min, max=a.max) for a in signature.axes if is_dynamic(a)}
    shapes = tuple(
        {i: dims[d] for i, d in enumerate(spec.shape) if isinstance(d, str) and d in dims} for spec in signature.inputs
    )
    return torch.export.export(part.exported, tuple(arguments), dynamic_shapes=shapes, strict=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress logs and warnings of the exporters while the block runs. Failures are exceptions anyway."""
    loggers = [logging.getLogger(n) for n in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def explained(error: BaseException, signature: Signature, remedy: str) -> ExportError:
    """Turn an exporter's exception into an error that names the axis or line at fault.

    ``remedy`` is for other causes.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    axes = [a.name for a in signature.axes if re.search(rf"\b{re.escape(a.name)}\b", str(error))]
    if "onstraints violated" in lines[0] and axes:
        detail = next((line.strip(" -") for line in lines if line.startswith("- ")), lines[0])
        return BakedInError(
            f"axis {' and '.join(axes)} turned constant in the export: {detail.partition('. If ')[0]}",
            remedy="Write the network without taking this size as a Python number (reshape with -1), or "
            f"fix the axis, for example `axes={axes[0]}={signature.axis(axes[0]).opt}`.",
            axes=axes,
        )
    if isinstance(error, GuardOnDataDependentSymNode):
        return BakedInError(
            f"the network takes a value that may vary as a Python number{_where(error)}",
            remedy="Compute with tensors: no int(), float(), .item(), .tolist(), and torch.where in place of an if.",
        )
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return ExportError(
        f"PyTorch could not export the network: {type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}",
        remedy=remedy,
    )


def _where(error: BaseException) -> str:
    """The last line of the user's code in the traceback of an error; "" where there is none."""
    inside = Path(torch.__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if inside not in Path(f.filename).parents]
    last = frames[-1]
    return "" if last.filename == __file__ else f": {Path(last.filename).name}, line {last.lineno}: {last.line}"
