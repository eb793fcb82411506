"""The page of the command line, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator

import click

from torchlift.cli import cli

_INTRODUCTION = """# The command line

Generated from the commands: the same as `torchlift COMMAND --help`. A command ends with 0 where all is well, 1 for an
error, 2 for wrong usage, 3 where no variant holds the gate, 130 for Ctrl-C.
"""


def page() -> str:
    """All commands in the order of `torchlift --help`, each with its options."""
    root = click.Context(cli, info_name="torchlift")
    parts = [_INTRODUCTION]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        parts.extend(_command(command, click.Context(command, info_name=name, parent=root)))
    return "\n".join(parts)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {context.info_name}\n"
    yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield _help(command.help or "")
    yield "| option | what it does |\n|---|---|"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield f"| `{record[0]}` | {_cell(record[1])} |"
    yield ""


def _help(text: str) -> str:
    """A help text: a paragraph that begins with click's mark is shown as it is."""
    shown = []
    for paragraph in text.split("\n\n"):
        kept = paragraph.strip().removeprefix("\b\n")
        shown.append(f"```text\n{kept}\n```" if kept != paragraph.strip() else kept)
    return "\n\n".join(shown) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
