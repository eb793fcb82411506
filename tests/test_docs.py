"""What the documents promise that a machine can check."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import click
import pytest

from torchlift.cli import cli
from torchlift.manifest import manifest_schema

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("docs/families/*.md")]


def test_the_published_schema_is_the_manifest_s():
    published = json.loads((REPOSITORY / "docs" / "manifest.schema.json").read_text())
    assert published == json.loads(json.dumps(manifest_schema()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [t for t in targets if not (document.parent / t).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_commands_exist(document):
    commands = set(re.findall(r"`torchlift ([a-z]+)\b", document.read_text()))
    assert commands <= set(cli.list_commands(click.Context(cli)))


def test_the_readme_s_python_names_are_public():
    import torchlift

    names = set(re.findall(r"\btl\.(\w+)", "".join(d.read_text() for d in DOCUMENTS)))
    assert names
    assert names <= set(dir(torchlift))


def _expected_layers():
    """The modules of the layers contract in pyproject.toml, row by row from the top."""
    contract = (REPOSITORY / "pyproject.toml").read_text().partition('type = "layers"')[2].partition("]")[0]
    return [re.findall(r"torchlift\.(\w+)", row) for row in re.findall(r'"(torchlift[^"]*)"', contract)]


def test_the_architecture_has_the_layers_that_are_enforced():
    rows = re.findall(r"^\| (\[.*?\)) \|", (REPOSITORY / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert [re.findall(r"\[(\w+)\]", row) for row in rows] == _expected_layers()


def test_the_architecture_draws_the_manifest_as_it_is():
    drawn = re.findall(r"(\w+) [|}][|o]--[|o][|{] (\w+) : (\w+)", (REPOSITORY / "ARCHITECTURE.md").read_text())
    assert drawn
    entities = manifest_schema()["$defs"]
    for owner, part, field in drawn:
        assert f"#/$defs/{part}" in json.dumps(entities[owner]["properties"][field]), (owner, part, field)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_files_that_are_named_exist(document):
    named = re.findall(r"`((?:src|tests|docs|examples|benchmarks|scripts)/[\w./]+)`", document.read_text())
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/internals.md"])
def test_modules_that_are_named_exist(name):
    text = (REPOSITORY / name).read_text()
    named = [*re.findall(r"`([\w/]+(?:\.py|/))`", text), *re.findall(r"(?<![/\w])(\w+\.py)\b", text)]
    rooms = [REPOSITORY, REPOSITORY / "src" / "torchlift", *REPOSITORY.glob("src/torchlift/*/")]
    rooms += [*REPOSITORY.glob("src/torchlift/*/*/")]
    assert named
    assert [path for path in named if not any((room / path).exists() for room in rooms)] == []


def test_every_public_name_has_its_place_in_the_reference():
    import torchlift

    pages = "".join(page.read_text() for page in REPOSITORY.glob("docs/reference/*.md"))
    shown = re.findall(r"^::: (torchlift\.\S+)$", pages, re.MULTILINE)
    assert len(shown) == len({*shown})
    public = {f"torchlift.{name}": getattr(torchlift, name).__module__ for name in dir(torchlift) if name[0] != "_"}
    assert {name for name, module in public.items() if name not in shown and module not in shown} == set()
    assert [name for name in shown if name not in public and not _is_module(name)] == []


def _is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_every_page_has_its_place_on_the_site():
    site = (REPOSITORY / "mkdocs.yml").read_text()
    pages = {page.relative_to(REPOSITORY / "docs").as_posix() for page in REPOSITORY.glob("docs/**/*.md")}
    assert pages <= set(re.findall(r": (\S+\.md)$", site, re.MULTILINE))


def test_the_hooks_are_the_linters_and_need_no_network():
    hooks = re.findall(r"entry: \.venv/bin/(.+)$", (REPOSITORY / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    linters = re.findall(r"^\t\$\(BIN\)/(.+)$", (REPOSITORY / "Makefile").read_text().partition("\nlint:")[2], re.M)
    assert [hook.split()[0] for hook in hooks] == [linter.split()[0] for linter in linters[: len(hooks)]]
    assert set(re.findall(r"- repo: (\S+)", (REPOSITORY / ".pre-commit-config.yaml").read_text())) == {"local"}
