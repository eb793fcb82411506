"""Sizes that follow from the sizes of axes, written as expressions: ``height // 4``, ``2 * width``."""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping

from torchlift.errors import SignatureError

_LONGEST = 200
"""The most characters of an expression. Longer ones are not written, and not read."""

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}

_FUNCTIONS: Mapping[str, Callable[..., int]] = {"max": max, "min": min}

GRAMMAR = "names of axes, whole numbers, + - * // %, max(), min() and parentheses"
"""What an expression may hold, in words."""


def names_in(expression: str) -> frozenset[str]:
    """The names of the axes in an expression: ``height // 4`` has ``height``.

    Raises SignatureError for a text that is no expression.
    """
    return _parsed(expression)[1]


def size_of(expression: str, sizes: Mapping[str, int]) -> int:
    """The value of an expression: of ``height // 4`` at ``{"height": 224}`` it is 56.

    Raises SignatureError for a text that is no expression, for an axis without a size, and for a division by 0.
    """
    if expression in sizes:
        return sizes[expression]
    tree, _ = _parsed(expression)
    try:
        return _value(tree, sizes)
    except KeyError as error:
        raise SignatureError(
            f"the size {expression} needs the axis {error.args[0]}, which has no size",
            remedy=f"The axes are {', '.join(sizes) or 'none'}.",
        ) from error
    except ZeroDivisionError as error:
        raise SignatureError(
            f"the size {expression} divides by 0", remedy="Write an expression that has a value at all sizes."
        ) from error


@functools.lru_cache(maxsize=1024)
def _parsed(expression: str) -> tuple[ast.expr, frozenset[str]]:
    """The tree of an expression, which holds nothing but what is allowed, and the names in it."""
    try:
        if len(expression) > _LONGEST:
            raise ValueError("it is too long")
        tree = ast.parse(expression, mode="eval").body
        names = frozenset(_names(tree))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        said = expression if len(expression) <= _LONGEST else f"{expression[:_LONGEST]}..."
        raise SignatureError(
            f"{said!r} is no size", remedy=f"A size that follows from axes is written with {GRAMMAR}."
        ) from error
    return tree, names


def _names(tree: ast.expr) -> list[str]:
    """The names in a tree. Raises ValueError where it holds anything that is not allowed."""
    match tree:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return []
        case ast.Name(id=name):
            return [name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _names(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _names(left) + _names(right)
        case ast.Call(func=ast.Name(id=name), args=[_, _, *_] as args, keywords=[]) if name in _FUNCTIONS:
            return [found for arg in args for found in _names(arg)]
    raise ValueError(f"{ast.unparse(tree)} is not allowed")


def _value(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    match tree:
        case ast.Constant(value=int() as value):
            return value
        case ast.Name(id=name):
            return sizes[name]
        case ast.UnaryOp(operand=operand):
            return -_value(operand, sizes)
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*(_value(arg, sizes) for arg in args))
    raise AssertionError("the tree was checked when it was parsed")
