"""Requires that a network answers the same to the same inputs, and says where it does not."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchlift.errors import VerificationError
from torchlift.exporter.answers import asked
from torchlift.exporter.values import users_line
from torchlift.families.base import ModelComponent
from torchlift.prove.goldens import Golden
from torchlift.prove.numerics import TOLERANCES, compare


def require_repeats(part: ModelComponent, golden: Golden) -> None:
    """Raise VerificationError where PyTorch answers otherwise to a golden's inputs when it is asked again.

    The error names the first module whose values part, and the line that draws random numbers where one does. Seen:
    dropout that is always on, noise, and state that a call leaves behind.
    """
    first, second = _observed(part, golden), _observed(part, golden)
    limit = TOLERANCES["fp32"].scaled
    if all(
        _same(seen.answers[name].numpy(), expected, limit)
        for seen in (first, second)
        for name, expected in golden.outputs.items()
    ):
        return
    drawn, again = second.drawn, second.modules
    parted = next((path for path in again if not _alike(first.modules.get(path, []), again[path])), "")
    named = f", first in {parted} ({type(part.reference.get_submodule(parted)).__name__})" if parted else ""
    line = f": {drawn[0]}" if drawn else ""
    cause = "draws random numbers" if drawn else "keeps state between calls"
    named = named.replace(f"{part.inner}.", "", 1) if part.inner else named
    raise VerificationError(
        f"the network answers otherwise when it is asked again{named}: it {cause}{line}",
        remedy="Take the noise, or the state, as an input. Let dropout heed eval(): nn.Dropout, or F.dropout(x, p, "
        "self.training).",
    )


def _same(found: np.ndarray, expected: np.ndarray, limit: float) -> bool:
    if found.shape != expected.shape:
        return False
    difference = compare(found, expected)
    return difference.max_scaled <= limit and not difference.nonfinite_mismatch


def _alike(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


class _Draws(TorchDispatchMode):
    """Notes the lines that draw random numbers."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            self.lines.append(users_line(traceback.extract_stack()))
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Observed:
    """One run: what the network answered by output, what every module answered by its path, in the order in which they
    ended, and the lines that drew random numbers.
    """

    answers: dict[str, Tensor]
    modules: dict[str, list[Tensor]]
    drawn: list[str]


def _observed(part: ModelComponent, golden: Golden) -> _Observed:
    found: dict[str, list[Tensor]] = {}
    hooks = []

    def noting(path: str) -> Any:
        def note(module: object, arguments: object, answer: Any) -> None:
            found.setdefault(path, []).extend(leaf.clone() for leaf in tree_leaves(answer) if _is_real(leaf))

        return note

    for path, module in part.reference.named_modules():
        if path and not isinstance(module, torch.jit.ScriptModule):
            hooks.append(module.register_forward_hook(noting(path)))
    draws = _Draws()
    try:
        with draws:
            answers = asked(part, golden.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return _Observed(answers, found, draws.lines)


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not leaf.is_complex()
