"""The code of the documents: fenced blocks, the commands within, and whether the test can run them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click

from torchlift.cli import cli

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("docs/*.md"))]
PAGES += sorted(REPOSITORY.glob("docs/families/*.md"))
RUN = ("python", "console", "sh")
SHOWN = ("text", "mermaid", "json", "toml")

_FENCE = re.compile(r"( *)```(\w*)\n(.*?)\n\1```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: (.+?) -->\n$")


@dataclass(frozen=True)
class Block:
    """A fenced block. ``reason`` says why the test does not run it, from a comment before it; empty where it does."""

    page: str
    line: int
    language: str
    code: str
    reason: str = ""

    @property
    def place(self):
        return f"{self.page}:{self.line}"

    @property
    def commands(self):
        """The command lines of a shell block: continued lines joined, without the prompts of a console."""
        lines = self.code.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(page):
    """The fenced blocks of a document, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        indent, language, code = fence.groups()
        mark = _MARK.search(text[: fence.start()])
        code = "\n".join(line.removeprefix(indent) for line in code.splitlines())
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page.name, line, language, code, mark[1] if mark else ""))
    return found


def prose(page):
    """A document without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def inline(page):
    """The code within the lines of a document, as ``torchlift verify`` in a sentence."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def options_of(command):
    """The names of the options of a command, or of all commands for None."""
    context = click.Context(cli)
    names = cli.list_commands(context) if command is None else [command]
    known = {"-h", "--help"}
    for name in names:
        for parameter in cli.get_command(context, name).params:
            known.update(parameter.opts, parameter.secondary_opts)
    return known


def mistakes(line):
    """What is wrong with a command line of torchlift: a command or an option that does not exist."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if len(words) < 2 or words[0] != "torchlift" or words[1] in ("--help", "--version"):
        return []
    command = words[1].rstrip(",")
    if command not in cli.list_commands(click.Context(cli)):
        return [command]
    known = options_of(command)
    return [word for word in words[2:] if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
