"""Checks what a traced program assumes of sizes: a branch on a size is traced for the side that the example took."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

import sympy
import torch

from torchlift.axes import Axis
from torchlift.errors import BakedInError
from torchlift.exporter.shapes import axes_of_symbols, condition_text
from torchlift.families.sizes import at
from torchlift.signature import Signature

_EACH = 4096
"""At most so many sizes of an axis are tried one by one."""

_DRAWN = 256
"""How many sets of sizes are drawn besides."""

_NAMED = 64
"""At most so many sizes that a program does not hold at are kept."""

_FUNCTIONS = {"__builtins__": {"max": max, "min": min, "abs": abs, "int": int}}
"""What a condition may call."""

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class Doubt:
    """That a graph may have one side of a branch on a size: what is ``said`` of it, and ``sizes`` that it is not known
    to hold at, where these are known. Only a comparison with PyTorch decides whether it is right there.
    """

    said: str
    sizes: tuple[Sizes, ...] = ()


def doubt_of(program: torch.export.ExportedProgram, signature: Signature) -> Doubt | None:
    """Whether a program assumes what does not hold at a size within the ranges; None where it holds at all.

    For example of ``if x.shape[1] % 8:`` the trace has one side, and a guard that says so. torch keeps guards beside
    the program, as Python code, or inside it, as assertions. Both are asked at every size of each axis, at sizes that
    two axes share, and at seeded ones.

    Size 1 is left out: torch.export takes every size that varies to be 2 or more, and the golden at the least sizes
    proves it. Assertions on values are left out too.
    """
    conditions = {**_guards(program, signature), **_assertions(program, signature)}
    broken = (
        (sizes, text) for sizes in _asked(signature) for text, code in conditions.items() if not _holds(code, sizes)
    )
    named = [*itertools.islice(broken, _NAMED)]
    if not named:
        return None
    sizes, text = named[0]
    return Doubt(f"it does not hold at {at(sizes)}: it assumes {text:.200}", tuple(sizes for sizes, _ in named))


def require_guards(program: torch.export.ExportedProgram, signature: Signature) -> None:
    """Raise BakedInError where a program does not hold at a size within the ranges."""
    doubt = doubt_of(program, signature)
    if doubt is not None:
        raise baked_in(doubt)


def baked_in(doubt: Doubt) -> BakedInError:
    """The error for a doubt that no comparison took away."""
    return BakedInError(
        f"a branch on a size is traced for one side: {doubt.said}",
        remedy="Compute both sides with tensors, or narrow the range of the axis with `axes=`.",
    )


def in_axes(text: str, signature: Signature) -> str:
    """Torch's words for a size in those of the signature: ``L['tensors'][0].size()[1]`` is ``sequence``."""

    def named(match: re.Match[str]) -> str:
        spec = signature.inputs[int(match[1])] if int(match[1]) < len(signature.inputs) else None
        dim = spec.shape[int(match[2])] if spec is not None and int(match[2]) < len(spec.shape) else None
        return match[0] if dim is None else str(dim)

    text = re.sub(r"L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]", named, text)
    return re.sub(r"\btensors_(\d+)\.size\(\)\[(\d+)\]", named, text)


def _guards(program: torch.export.ExportedProgram, signature: Signature) -> dict[str, CodeType]:
    """The guards that torch keeps beside a program, as conditions on axes. What speaks of anything else is left out."""
    found = {}
    for guard in getattr(program, "_guards_code", None) or ():
        text = in_axes(guard, signature)
        if "L[" not in text and "size()" not in text:
            found[text] = compile(text, "<guard>", "eval")
    return found


def _assertions(program: torch.export.ExportedProgram, signature: Signature) -> dict[str, CodeType]:
    """The assertions on sizes inside a program, and the ranges of its sizes, as conditions on axes."""
    axes = axes_of_symbols(program, signature)
    conditions: list[Any] = []
    for node in program.graph.nodes:
        if "_assert_scalar" in str(node.target):
            value = node.args[0].meta.get("val") if isinstance(node.args[0], torch.fx.Node) else None
            conditions += [value.node.expr] if isinstance(value, torch.SymBool) else []
    for symbol, bounds in program.range_constraints.items():
        if symbol in axes:
            if bounds.lower > 2:
                conditions.append(sympy.Ge(symbol, bounds.lower))
            if isinstance(bounds.upper, sympy.Integer):
                conditions.append(sympy.Le(symbol, bounds.upper))
    texts = [text for condition in conditions if (text := condition_text(condition, axes)) is not None]
    return {text: compile(text, "<assertion>", "eval") for text in texts}


def _holds(code: CodeType, sizes: Sizes) -> bool:
    """Whether a condition is true. It was made here, of names of axes, numbers and operators."""
    try:
        return bool(eval(code, dict(_FUNCTIONS), dict(sizes)))  # noqa: S307 (made here, of sizes alone)
    except Exception:  # it speaks of more than sizes
        return True


def _asked(signature: Signature) -> Iterator[dict[str, int]]:
    ranges = {axis.name: _above_one(axis) for axis in signature.axes}
    usual = {axis.name: max(axis.opt, ranges[axis.name][0]) for axis in signature.axes}
    for corner in itertools.islice(itertools.product(*((s[0], s[-1]) for s in ranges.values())), _DRAWN):
        yield dict(zip(ranges, corner, strict=True))
    for name, sizes in ranges.items():
        for size in sizes[:: max(1, len(sizes) // _EACH)]:
            yield {**usual, name: size}
    for (one, first), (other, second) in itertools.combinations(ranges.items(), 2):
        for size in [size for size in first[:_EACH] if size in second]:
            yield {**usual, one: size, other: size}
    rng = random.Random(0)
    for _ in range(_DRAWN):
        yield {name: rng.choice(sizes) for name, sizes in ranges.items()}


def _above_one(axis: Axis) -> range:
    """The sizes of an axis, without 1 where it has others."""
    return axis.sizes_between(min(2, axis.max), axis.max)
