"""The options that say what of the machine a command runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable)


def _check(context: click.Context, parameter: click.Parameter, number: int | None) -> int | None:
    """Refuse what :class:`torchlift.machine.RunOn` refuses, in its words."""
    from torchlift.errors import InputError
    from torchlift.machine import RunOn

    if number is not None:
        try:
            RunOn(**{parameter.name or "": number})
        except InputError as error:
            raise click.BadParameter(f"{error.message}. {error.remedy}", context, parameter) from None
    return number


threads_option = click.option(
    "--threads", type=int, callback=_check, default=0, help="Threads for one call; 0 is every core."
)


def device_option(said: str) -> Callable[[Command], Command]:
    """The GPU that a command runs on, None where the user names none. ``said`` is the help."""
    return click.option("--device", type=int, callback=_check, help=f"{said} [default: 0]")
