"""What ``torchlift run`` does with each kind of pipeline: a module for each, which asks it and says what is printed.

A module has ``TAKES``, the parameters of the command that its pipeline takes, and ``answer(pipeline, given, outputs)``.
``given`` has those of them that the user gave, by name; ``outputs`` are the texts of ``--output``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:
    from rich.console import Console

RUNNERS = {
    "dual-encoder": "torchlift.cli.running.dual_encoder",
    "detection": "torchlift.cli.running.detection",
    "question-answering": "torchlift.cli.running.question_answering",
    "text-encoder": "torchlift.cli.running.tensors",
    "super-resolution": "torchlift.cli.running.super_resolution",
    "tensors": "torchlift.cli.running.tensors",
}
"""What a manifest calls a pipeline -> the module that asks it."""

Given = Mapping[str, Any]
"""Parameter of the command -> its value, for those that were given."""


@dataclass(frozen=True)
class Answered:
    """What a pipeline answered: ``said`` is plain data for ``--json``, ``show`` prints it for people, and ``written``
    has a line about each file that was written.
    """

    said: Any
    show: Callable[[Console], None]
    written: Sequence[str] = ()


class Runner(Protocol):
    """A module of this package."""

    TAKES: tuple[str, ...]

    def answer(self, pipeline: Any, given: Given, outputs: tuple[str, ...]) -> Answered:
        """Ask an open pipeline. Raises UsageError for what it cannot be asked."""


def runner_of(pipeline: str) -> Runner:
    """The module for a pipeline that this torchlift knows."""
    runner: Any = import_module(RUNNERS[pipeline])
    return runner  # type: ignore[no-any-return]


def require_taken(context: click.Context, runner: Runner, given: Given) -> None:
    """Raise UsageError for an option that the bundle's pipeline does not take."""
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in given:
        if name not in runner.TAKES:
            *most, last = [flags[other] for other in runner.TAKES]
            taken = f"{', '.join(most)} and {last}" if most else last
            raise click.UsageError(f"this bundle takes {taken}, not {flags[name]}.")
