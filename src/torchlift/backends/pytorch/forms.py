"""Forms of JSON values, made of smaller forms. A value that a form does not describe is refused.

``record({"name": text(r"[a-z]+")})`` takes ``{"name": "add"}``, and refuses ``{}``, ``{"name": 1}`` and any other key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

Where = tuple[str | int, ...]
"""The keys and indices on the way to a value, for messages."""

Form = Callable[[Any, Where], None]
"""A check of a value and its place. It raises UnlikeError where the value has another form."""


class UnlikeError(ValueError):
    """A value does not have the form that it must have. The message names the value: ``the target 'torch.load'``."""


def parse(text: str | bytes) -> Any:
    """Parse JSON. Raises UnlikeError for an object with one key twice: readers disagree on which of them counts."""
    return json.loads(text, object_pairs_hook=_object)


def that(fits: Callable[[Any], bool]) -> Form:
    """A value for which ``fits`` is true."""

    def check(value: Any, where: Where) -> None:
        if not fits(value):
            _refuse(value, where)

    return check


def text(pattern: str) -> Form:
    """A string that matches an ASCII pattern from its first to its last character."""
    compiled = re.compile(pattern, re.ASCII)
    return that(lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None)


def among(*values: int) -> Form:
    """One of a few whole numbers."""
    return that(lambda value: type(value) is int and value in values)


flag = that(lambda value: isinstance(value, bool))
whole = that(lambda value: type(value) is int and -(2**63) <= value < 2**63)
size = that(lambda value: type(value) is int and 0 <= value < 2**63)
number = that(lambda value: type(value) in (int, float) or value in ("Infinity", "-Infinity", "NaN"))


def nothing(value: Any, where: Where) -> None:
    """An empty list or object, for what a plain network does not have."""
    if value not in ([], {}):
        raise UnlikeError(f"the {where[-1]!r}{_at(where)}")


def maybe(form: Form) -> Form:
    """A value of the form, or null."""
    return lambda value, where: None if value is None else form(value, where)


def many(form: Form) -> Form:
    """A list of values of the form."""

    def check(value: Any, where: Where) -> None:
        if not isinstance(value, list):
            _refuse(value, where)
        for index, item in enumerate(value):
            form(item, (*where, index))

    return check


def named(key: Form, form: Form) -> Form:
    """An object with any keys of the form ``key``, whose values have ``form``."""

    def check(value: Any, where: Where) -> None:
        if not isinstance(value, Mapping):
            _refuse(value, where)
        for name, item in value.items():
            key(name, where)
            form(item, (*where, name))

    return check


def record(fields: Mapping[str, Form], later: Mapping[str, Form] | None = None) -> Form:
    """An object with all keys of ``fields``, any keys of ``later`` (not every release writes them), and no others."""
    known = {**fields, **(later or {})}

    def check(value: Any, where: Where) -> None:
        if not isinstance(value, Mapping):
            _refuse(value, where)
        for name in value:
            if name not in known:
                raise UnlikeError(f"the {name[:60]!r}{_at(where)}")
        for name in fields:
            if name not in value:
                raise UnlikeError(f"no {name!r}{_at(where)}")
        for name, item in value.items():
            known[name](item, (*where, name))

    return check


def union(arms: Mapping[str, Form]) -> Form:
    """An object with exactly one of these keys."""
    any_of_them = record({}, arms)

    def check(value: Any, where: Where) -> None:
        any_of_them(value, where)
        if len(value) != 1:
            _refuse(value, where)

    return check


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UnlikeError(f"the key {name[:60]!r} twice")
        found[name] = value
    return found


def _refuse(value: Any, where: Where) -> NoReturn:
    name = next(key for key in reversed(where) if isinstance(key, str))
    raise UnlikeError(f"the {name} {value[:60] if isinstance(value, str) else value!r:.80}{_at(where)}")


def _at(where: Where) -> str:
    return f" at {'.'.join(map(str, where))[:200]}"
