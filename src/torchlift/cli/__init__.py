"""The command line: parses, calls, prints. A command's module is imported when the command is run."""

from __future__ import annotations

import io
import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import torchlift
from torchlift.cli.interrupts import INTERRUPTS
from torchlift.cli.words import echo, with_flags
from torchlift.errors import BackendError, GateError, TorchliftError, telling
from torchlift.interpreter import guarded_children

_COMMANDS = {
    "ship": "Export, build, verify, measure, choose: the main job.",
    "export": "Write the ONNX graphs and the goldens of a model.",
    "build": "Make and verify variants of a bundle on this machine.",
    "verify": "Compare a bundle's variants with PyTorch's answers.",
    "score": "Score a bundle's variants on the model's own task.",
    "bisect": "Find the nodes whose precision costs the accuracy.",
    "bench": "Measure a bundle's variants side by side.",
    "run": "Give a bundle inputs and print its answers.",
    "inspect": "Show what a bundle holds and what is known of it.",
    "doctor": "Say what this machine can do, and what to install.",
    "pack": "Put a bundle into one .zip file.",
    "unpack": "Take a bundle out of a .zip file, and check it.",
}
"""Command -> its help in one line, so that --help imports none of them."""

_RESUMED = ("ship", "export")
"""Commands that, run again after an interruption, go on from what was finished."""

_TORCH_SIDE = ("torch", "transformers", "onnxscript")


class _CarriedError(Exception):
    """An error, its cause, on its way through click, which would take the end of a file for Ctrl-D, and ends the
    process by itself where nobody reads what it prints.
    """


class _Commands(click.Group):
    """Commands that are imported when they are needed."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (EOFError, BrokenPipeError) as error:
            raise _CarriedError from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"torchlift.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(torchlift.__version__, prog_name="torchlift")
def cli() -> None:
    """From a trained PyTorch model to a verified, measured bundle that runs without PyTorch."""


def main() -> None:
    """Run the command line; exits with 0, 1 for an error, 2 for wrong usage, 3 where no variant holds the gate, 130 for
    Ctrl-C, 143 for SIGTERM.
    """
    invoked: dict[str, Any] = {}
    with guarded_children(), INTERRUPTS.heeded():
        status = _run(invoked)
    if status:
        sys.exit(status)


def _run(invoked: dict[str, Any]) -> int:
    """Run the command and print how it ended; returns the exit status."""
    try:
        status = cli.main(prog_name="torchlift", standalone_mode=False, obj=invoked) or 0
    except GateError as error:  # raised when all is done
        status = _show(error.message, error.remedy, status=3)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if INTERRUPTS.noted or isinstance(error, KeyboardInterrupt | click.Abort):
            return _interrupted(invoked)
        cause = error.__cause__ if isinstance(error, _CarriedError) else error
        return _failed(cause or error, bool(invoked.get("verbose")))
    if INTERRUPTS.noted:
        echo("interrupted, but all was done: the result is there", err=True)
        return INTERRUPTS.status
    return status


def _interrupted(invoked: dict[str, Any]) -> int:
    resumed = ": what was there before is untouched; the same command goes on from here"
    echo("interrupted" + resumed * (invoked.get("command") in _RESUMED), err=True)
    return INTERRUPTS.status


def _failed(error: BaseException, verbose: bool) -> int:
    """Say what ended a command. ``verbose`` shows the traceback; without, only an error that nobody foresaw has one."""
    if isinstance(error, click.ClickException):
        shown = io.StringIO()
        error.show(shown)
        echo(with_flags(shown.getvalue().rstrip()), err=True)
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if not verbose:
        if isinstance(error, TorchliftError):
            log = isinstance(error, BackendError) and "\n" in error.message
            return _show(telling(error.message) if log else error.message, error.remedy)
        if isinstance(error, ModuleNotFoundError) and error.name in _TORCH_SIDE:
            return _show(
                f"{error.name} is not installed", 'It is needed to read models: pip install "torchlift[torch]".'
            )
        if isinstance(error, MemoryError):
            return _show(f"this takes more memory than there is: {error}", "Ask for fewer or smaller inputs.")
        if isinstance(error, OSError) and error.filename is not None:
            return _show(f"{_named(error.filename)}: {error.strerror}", "Check the path and its permissions.")
        if isinstance(error, SystemExit):
            return _show(
                f"the command was not finished: SystemExit: {error}{_place(error)}",
                "Let that code return, or raise an error.",
            )
    echo("".join(traceback.format_exception(error)).rstrip(), err=True)
    return 1


def _named(path: str | bytes | int) -> str:
    return f"file {path}" if isinstance(path, int) else os.fsdecode(path)


def _place(error: BaseException) -> str:
    """Where an exception was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" at {Path(last.filename).name}, line {last.lineno}"


def _show(message: str, remedy: str, status: int = 1) -> int:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    echo(with_flags(message), err=True)
    if remedy:
        echo(f"  {with_flags(remedy)}", err=True)
    return status
