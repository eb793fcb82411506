"""The sizes of outputs as expressions of axes, from the symbolic shapes that torch.export found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch

from torchlift.dims import size_of
from torchlift.errors import SignatureError
from torchlift.signature import Dim, Signature

_DIVISIONS = ("FloorDiv", "CleanDiv", "IntTrueDiv")
"""How torch names a division of sizes that has a whole result."""


def symbolic_outputs(program: torch.export.ExportedProgram, signature: Signature) -> list[list[str | None]]:
    """For each output of a traced program its sizes as expressions of the signature's axes; None for what has none."""
    nodes = {node.name: node for node in program.graph.nodes}
    axes = axes_of_symbols(program, signature)
    found: list[list[str | None]] = []
    for name in program.graph_signature.user_outputs:
        value = nodes[name].meta.get("val") if isinstance(name, str) and name in nodes else None
        sizes = value.shape if isinstance(value, torch.Tensor) else ()
        found.append([_written(size, axes) for size in sizes])
    return found


def refined(
    dims: Sequence[Dim], symbolic: Sequence[str | None], runs: Sequence[tuple[Mapping[str, int], Any]]
) -> tuple:
    """The dimensions with an expression in the place of each None, where the program has one that holds in all runs.

    ``runs`` are sizes of the axes, and the shape that the output had there.
    """
    if len(dims) != len(symbolic):
        return tuple(dims)
    return tuple(
        said if dim is None and said is not None and _holds(said, position, runs) else dim
        for position, (dim, said) in enumerate(zip(dims, symbolic, strict=True))
    )


def _holds(expression: str, position: int, runs: Sequence[tuple[Mapping[str, int], Any]]) -> bool:
    try:
        return all(size_of(expression, sizes) == shape[position] for sizes, shape in runs)
    except SignatureError:
        return False


def axes_of_symbols(program: torch.export.ExportedProgram, signature: Signature) -> dict[sympy.Symbol, str]:
    """The symbols of a program, each as an expression of axes: of an input's size 32*s5 that is ``height``, s5 is
    ``(height // 32)``.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    inputs = [nodes[name] for name in program.graph_signature.user_inputs if name in nodes]
    found: dict[sympy.Symbol, str] = {}
    for node, spec in zip(inputs, signature.inputs, strict=False):
        value = node.meta.get("val")
        for size, dim in zip(getattr(value, "shape", ()), spec.shape, strict=False):
            if not (isinstance(dim, str) and isinstance(size, torch.SymInt)):
                continue
            expression = size.node.expr
            if isinstance(expression, sympy.Symbol):
                found.setdefault(expression, dim)
            elif isinstance(expression, sympy.Mul) and len(expression.args) == 2:
                factor, symbol = expression.args
                if isinstance(factor, sympy.Integer) and isinstance(symbol, sympy.Symbol):
                    found.setdefault(symbol, f"({dim} // {int(factor)})")
    return found


def _written(size: Any, axes: Mapping[sympy.Symbol, str]) -> str | None:
    """A size as torchlift writes expressions; None where it is a number, or has anything that these lack."""
    if not isinstance(size, torch.SymInt):
        return None
    try:
        text = _text(size.node.expr, axes)
    except (KeyError, ValueError):
        return None
    inner = text[1:-1]
    return inner if text.startswith("(") and text.endswith(")") and _balanced(inner) else text


def condition_text(condition: Any, axes: Mapping[sympy.Symbol, str]) -> str | None:
    """A condition of sympy on sizes as a Python expression of axes: ``(t % 13) != 0``. None where that has no form."""
    try:
        return _condition(condition, axes)
    except (KeyError, ValueError):
        return None


_RELATIONS = {"Equality": "==", "Unequality": "!=", "StrictLessThan": "<", "LessThan": "<="}
_RELATIONS |= {"StrictGreaterThan": ">", "GreaterThan": ">="}


def _condition(condition: Any, axes: Mapping[sympy.Symbol, str]) -> str:
    kind = type(condition).__name__
    if condition in (sympy.true, sympy.false):
        return str(bool(condition))
    if kind in _RELATIONS:
        left, right = (_text(part, axes) for part in condition.args)
        return f"{left} {_RELATIONS[kind]} {right}"
    if kind in ("And", "Or"):
        return f" {kind.lower()} ".join(f"({_condition(part, axes)})" for part in condition.args)
    if kind == "Not":
        return f"not ({_condition(condition.args[0], axes)})"
    raise ValueError(f"{kind} has no form")


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def _text(expression: Any, axes: Mapping[sympy.Symbol, str]) -> str:
    """An expression of sympy in the grammar of :mod:`torchlift.dims`. Raises ValueError for what that lacks."""
    if isinstance(expression, sympy.Integer):
        return str(int(expression))
    if isinstance(expression, sympy.Symbol):
        return axes[expression]
    parts = [_text(part, axes) for part in expression.args]
    kind = type(expression).__name__
    if isinstance(expression, sympy.Add):
        return f"({_sum(expression, axes)})"
    if isinstance(expression, sympy.Mul):
        return f"({' * '.join(parts)})"
    if isinstance(expression, sympy.Pow) and expression.exp.is_Integer and 1 < int(expression.exp) <= 4:
        return f"({' * '.join([parts[0]] * int(expression.exp))})"
    if kind in _DIVISIONS and len(parts) == 2:
        return f"({parts[0]} // {parts[1]})"
    if kind == "CeilDiv" and len(parts) == 2:
        return f"(-(-{parts[0]} // {parts[1]}))"
    if kind in ("Mod", "PythonMod") and len(parts) == 2:
        return f"({parts[0]} % {parts[1]})"
    if kind in ("Max", "Min") and len(parts) > 1:
        return f"{kind.lower()}({', '.join(parts)})"
    raise ValueError(f"{kind} has no form")


def _sum(expression: sympy.Add, axes: Mapping[sympy.Symbol, str]) -> str:
    """A sum with what is subtracted behind a minus, and the number last: ``height - 3``."""
    said = ""
    for part in sorted(expression.args, key=lambda part: bool(part.is_Integer)):
        negative = bool(part.could_extract_minus_sign())
        text = _text(-part if negative else part, axes)
        said += (" - " if negative else " + ") + text if said or negative else text
    return said.strip().replace("- ", "-", 1) if said.startswith(" - ") else said
