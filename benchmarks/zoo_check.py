"""Whether answers are those of PyTorch: the same shapes and dtypes, and values that differ by rounding alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from zoo_case import Case, Feeds, Sizes

TIES = 0.005
"""The share of whole numbers and truth values that may differ, since two scores may be a rounding apart."""

Run = Callable[[Feeds], Sequence[np.ndarray]]


def flattened(answer: Any) -> list[np.ndarray]:
    """All tensors and numbers of an answer in order: of tuples, dicts, dataclasses and caches. None is left out."""
    return [np.asarray(leaf) for leaf in _leaves(answer)]


def _leaves(answer: Any) -> Iterator[Any]:
    for leaf in pytree.tree_leaves(answer):
        if leaf is None or isinstance(leaf, str):
            continue
        if isinstance(leaf, torch.Tensor):
            yield leaf.detach().resolve_conj().resolve_neg().cpu().numpy()
        elif isinstance(leaf, (bool, int, float, complex)):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from _leaves(dict(leaf))
        elif dataclasses.is_dataclass(leaf):
            yield from _leaves([getattr(leaf, f.name) for f in dataclasses.fields(leaf)])
        elif hasattr(leaf, "layers"):  # a cache of transformers
            yield from _leaves([(layer.keys, layer.values) for layer in leaf.layers])
        elif hasattr(leaf, "to_tuple"):
            yield from _leaves(leaf.to_tuple())
        else:
            raise TypeError(f"an answer holds {type(leaf).__name__}")


class Reference:
    """PyTorch's answers of a case's network, which is built anew."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._network = case.network()

    def __call__(self, feeds: Feeds) -> list[np.ndarray]:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in feeds.items()}
        args, kwargs = self._case.arguments(self._network, tensors)
        with torch.no_grad():
            return flattened(self._network(*args, **kwargs))


def first_difference(case: Case, run: Run) -> str:
    """What is wrong with the answers of ``run`` at fresh sizes and inputs; "" where all is right."""
    reference = Reference(case)
    for seed, sizes in enumerate(case.fresh()):
        feeds = case.draw(sizes, 100 + seed)
        right = reference(feeds)
        try:
            found = run({name: array.copy() for name, array in feeds.items()})
        except Exception as error:
            return f"does not run at {shown(sizes)}: {one_line(error)}"
        wrong = differences(right, found, case.tolerance)
        if wrong:
            return f"at {shown(sizes)}: {wrong}"
    return ""


def differences(right: Sequence[np.ndarray], found: Sequence[np.ndarray], tolerance: float) -> str:
    """How answers differ; "" where they agree."""
    if len(right) != len(found):
        return f"{len(found)} outputs instead of {len(right)}"
    for number, (a, b) in enumerate(zip(right, found, strict=True)):
        wrong = _difference(a, np.asarray(b), tolerance)
        if wrong:
            return f"output {number} {wrong}"
    return ""


def _difference(right: np.ndarray, found: np.ndarray, tolerance: float) -> str:
    if right.shape != found.shape:
        return f"has the shape {list(found.shape)} instead of {list(right.shape)}"
    if right.dtype != found.dtype:
        return f"is {found.dtype} instead of {right.dtype}"
    if right.size == 0:
        return ""
    if right.dtype.kind not in "fc":
        share = float(np.mean(right != found))
        return f"differs at {share:.1%} of its elements" if share > TIES else ""
    finite = np.isfinite(right)
    if not np.array_equal(finite, np.isfinite(found)) or not np.array_equal(
        right[~finite], found[~finite], equal_nan=True
    ):
        return "is infinite or not a number elsewhere"
    if not finite.any():
        return ""
    scale = max(float(np.abs(right[finite]).max()), 1e-30)
    off = float(np.abs(right[finite].astype(np.complex128) - found[finite]).max()) / scale
    limit = 10 * tolerance if right.dtype == np.float16 else tolerance
    return f"is off by {off:.1e} of its scale" if off > limit else ""


def unsound(case: Case) -> str:
    """Why a case proves nothing: it does not run, it answers nothing, or not twice the same; "" for a sound one."""
    reference = Reference(case)
    for seed, sizes in enumerate(case.fresh()):
        feeds = case.draw(sizes, 100 + seed)
        first, second = reference(feeds), reference(feeds)
        other = reference(case.draw(sizes, 200 + seed))
        wrong = differences(first, second, case.tolerance)
        if wrong and not case.refused:
            return f"at {shown(sizes)}, called twice: {wrong}"
        if not first:
            return f"at {shown(sizes)} the network answers nothing"
        if not any(_signal(a) for a in first):
            return f"at {shown(sizes)} the answers have no signal"
    if case.inputs and not case.refused and not differences(first, other, case.tolerance):
        return f"at {shown(sizes)} the answers do not depend on the inputs"
    return ""


def _signal(answer: np.ndarray) -> bool:
    if answer.dtype.kind not in "fc":
        return answer.size > 0
    values = answer[np.isfinite(answer)]
    return values.size > 0 and 1e-4 < float(np.abs(values).max()) < 1e6


def shown(sizes: Sizes) -> str:
    """Sizes in words."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "the declared shapes"


def one_line(error: BaseException, length: int = 300) -> str:
    """An exception's type and the start of its message, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:length]
