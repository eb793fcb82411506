"""Tiny networks of this family as folders."""

import berts
import pytest

from torchlift.families.base import LoadOptions
from torchlift.families.bert import Bert


@pytest.fixture
def load():
    """Find the model in a folder."""
    return lambda source, **options: Bert().load(str(source), LoadOptions(**options))


@pytest.fixture
def write(tmp_path):
    """Write a folder that transformers would."""

    def save(kind="bert", head="", name="folder", **said):
        return berts.write(tmp_path / name, kind, head, **said)

    return save
