"""What the documents promise that a machine can check."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

from torchlift.cli import cli
from torchlift.manifest import manifest_schema

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")]


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
