"""Finds where a network takes a value of its inputs as a Python number: a trace has that number as a constant."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PYTHON = Path(traceback.__file__).parent
"""Where Python's own modules are."""

_TO_PYTHON = ("numpy", "tolist", "__array__", "__dlpack__")
"""Methods that read values without an operator of torch."""


_READING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
"""Operators whose result is a Python value: the first is behind item(), int(), float(), bool() and ``if``."""


class _Reads(TorchDispatchMode):
    """Follows what is computed from the inputs, and notes where a value of it is read."""

    supports_higher_order_operators = True

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._held: dict[int, Tensor] = {id(tensor): tensor for tensor in inputs}

    def follows(self, value: Any) -> bool:
        """Whether a tensor was computed from the inputs."""
        return isinstance(value, Tensor) and id(value) in self._held

    def note(self) -> None:
        line = users_line(traceback.extract_stack())
        if line not in self.lines:
            self.lines.append(line)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = tree_leaves((args, kwargs or {}))
        if any(self.follows(value) for value in given):
            if func in _READING:
                self.note()
            made = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
            changed = [v for v in given if isinstance(v, Tensor)] if _is_mutable(func) else []
            self._held.update({id(value): value for value in (*made, *changed)})
        return result


def _is_mutable(func: Any) -> bool:
    """Whether an operator writes into its arguments; higher-order operators, such as cond, do not."""
    return bool(getattr(getattr(func, "_schema", None), "is_mutable", False))


class _Methods(TorchFunctionMode):
    """Notes the methods that read values and that no operator stands for."""

    def __init__(self, reads: _Reads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _TO_PYTHON and args and self._reads.follows(args[0]):
            self._reads.note()
        return func(*args, **(kwargs or {}))


def value_reads(run: Callable[..., Any], inputs: Sequence[Tensor]) -> list[str]:
    """The lines at which a network reads values that depend on its inputs, by running it once.

    For example ``net.py, line 8: if x.sum() > 0:``. Sizes do not count, and neither do values of weights. Where the
    network fails under observation, only the lines before that are known.
    """
    inputs = [tensor.clone() for tensor in inputs]
    reads = _Reads(inputs)
    try:
        with torch.no_grad(), reads, _Methods(reads):
            run(*inputs)
    except Exception:
        return reads.lines
    return reads.lines


def users_line(stack: traceback.StackSummary) -> str:
    """The last line of the user's code in a stack; else the last of a library that is neither torch nor torchlift. ""
    where there is none.
    """
    others = {Path(__file__).parents[1], Path(torch.__file__).parent}
    frames = [frame for frame in stack if frame.line and not others & {*Path(frame.filename).parents}]
    frames = [
        frame for frame in frames if "site-packages" in frame.filename or _PYTHON not in Path(frame.filename).parents
    ]
    last = next((f for f in reversed(frames) if "site-packages" not in f.filename), frames[-1] if frames else None)
    return "" if last is None else f"{Path(last.filename).name}, line {last.lineno}: {last.line:.120}"
