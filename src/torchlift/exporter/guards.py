"""Checks what a traced program assumes of sizes: a branch on a size is traced for the side that the example took."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping

import torch

from torchlift.axes import Axis
from torchlift.errors import BakedInError
from torchlift.families.sizes import at
from torchlift.signature import Signature, TensorSpec

_DRAWN = 64
"""How many sizes within the ranges are tried, besides those at their ends."""


def require_guards(program: torch.export.ExportedProgram, signature: Signature) -> None:
    """Raise BakedInError where a program does not hold at a size within the ranges.

    For example of ``if x.shape[1] > 6`` the trace has one side, and a guard that says so. The guards are asked at the
    ends of the ranges and at seeded sizes between. Size 1 is left out: torch.export takes every size that varies to be
    2 or more, and the golden at the least sizes proves it.
    """
    guards = getattr(program.module(), "_guards_fn", None)
    if guards is None:
        return
    for sizes in _asked(signature):
        tensors = [_blank(spec, sizes) for spec in signature.inputs]
        try:
            guards(*tensors)
        except AssertionError as error:
            said = in_axes(str(error).removeprefix("Guard failed: "), signature)
            raise BakedInError(
                f"the traced graph does not hold at {at(sizes)}: it assumes {said:.200}",
                remedy="A branch on a size was traced for one side. Compute both with tensors, or narrow the range of "
                "the axis with `axes=`.",
            ) from error


def in_axes(text: str, signature: Signature) -> str:
    """Torch's words for a size in those of the signature: ``L['tensors'][0].size()[1]`` is ``ids.sequence``."""

    def named(match: re.Match[str]) -> str:
        spec = signature.inputs[int(match[1])] if int(match[1]) < len(signature.inputs) else None
        dim = spec.shape[int(match[2])] if spec is not None and int(match[2]) < len(spec.shape) else None
        return str(dim) if isinstance(dim, str) else match[0]

    text = re.sub(r"L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]", named, text)
    return re.sub(r"\btensors_(\d+)\.size\(\)\[(\d+)\]", named, text)


def _blank(spec: TensorSpec, sizes: Mapping[str, int]) -> torch.Tensor:
    return torch.empty(spec.shape_at(sizes), dtype=getattr(torch, spec.dtype), device="meta")


def _asked(signature: Signature) -> Iterator[dict[str, int]]:
    ends = [_above_one(axis) for axis in signature.axes]
    for corner in itertools.islice(itertools.product(*((sizes[0], sizes[-1]) for sizes in ends)), _DRAWN):
        yield dict(zip((axis.name for axis in signature.axes), corner, strict=True))
    rng = random.Random(0)
    for _ in range(_DRAWN):
        yield {axis.name: rng.choice(sizes) for axis, sizes in zip(signature.axes, ends, strict=True)}


def _above_one(axis: Axis) -> range:
    """The sizes of an axis, without 1 where it has others."""
    return axis.sizes_between(min(2, axis.max), axis.max)
