"""Words on a terminal: names and messages out of a stranger's files are shown, and never obeyed."""

from __future__ import annotations

import re

import click

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All that a terminal acts upon and does not show, but for newline and tab: the control characters of ASCII and of
Latin-1, and what reverses the order of the text after it. Besides, what no encoding has: a file's name may be bytes
that are no text."""


def visible(text: str) -> str:
    r"""``text`` with what a terminal would act upon as Python writes it: ``\x1b[2J`` is shown, and clears no screen."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def visible_json(text: str) -> str:
    """JSON in which such characters, which stand within strings alone, are escaped."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_ARGUMENT = re.compile(r"`([a-z][a-z_]*)=([^`]*)`")
"""How messages name an argument of Python's, with a value or without: `trust_pickle=`, `axes=batch=1..4..9`."""

FLAGS = {
    "axes": "axis",
    "backends": "backend",
    "batches": "batch",
    "plugins": "plugin",
    "precisions": "precision",
    "profiles": "profile",
    "stripped": "strip-weights",
    "tolerances": "tolerance",
    "variants": "variant",
}
"""Python's arguments -> the options that say the same, where these have another name."""


def with_flags(text: str) -> str:
    """A message with the options of the command line in the place of Python's arguments: `--trust-pickle`,
    `--axis batch=1..4..9`.
    """

    def flag(found: re.Match[str]) -> str:
        name = FLAGS.get(found[1], found[1].replace("_", "-"))
        return f"--{name} {found[2]}".rstrip()

    return _ARGUMENT.sub(flag, text)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line of plain text to standard output, or to standard error."""
    click.echo(visible(text), err=err)
