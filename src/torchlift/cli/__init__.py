"""The command line: parses, calls, prints. A command's module is imported when the command is run."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

import torchlift

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


class _Commands(click.Group):
    """Commands that are imported when they are needed."""

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
    Ctrl-C.
    """
    from torchlift.errors import GateError, TorchliftError

    invoked: dict[str, Any] = {}
    try:
        cli.main(prog_name="torchlift", standalone_mode=False, obj=invoked)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        resumed = ": what was there before is untouched; the same command goes on from here"
        click.echo("interrupted" + resumed * (invoked.get("command") in _RESUMED), err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except TorchliftError as error:
        if invoked.get("verbose") and not isinstance(error, GateError):
            raise
        _show(error.message, error.remedy, status=3 if isinstance(error, GateError) else 1)
    except ModuleNotFoundError as error:
        if invoked.get("verbose") or error.name not in _TORCH_SIDE:
            raise
        _show(f"{error.name} is not installed", 'It is needed to read models: pip install "torchlift[torch]".')


def _show(message: str, remedy: str, status: int = 1) -> NoReturn:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
    if remedy:
        click.echo(f"  {remedy}", err=True)
    sys.exit(status)
