"""A component names the files that it was exported with, and a bundle with others, or without outputs, is refused."""

import json
from dataclasses import replace

import pytest

from torchlift.bundle import Bundle
from torchlift.checksums import sha256
from torchlift.errors import BundleError
from torchlift.manifest import MANIFEST

WORDS = "[PAD]\n[UNK]\n猫\n狗\n"


@pytest.fixture
def reading(bundle):
    """The tiny bundle with a vocabulary that its component was exported with."""
    with bundle.adding("assets") as added:
        (added.path / "vocab.txt").write_text(WORDS, encoding="utf-8")
    path = f"{added.folder}/vocab.txt"
    component = replace(bundle.manifest.component("model"), assets={"vocabulary": added.files[path].sha256})
    manifest = replace(bundle.manifest.with_component(component), assets={"vocabulary": path})
    bundle.commit(manifest, added.files)
    return bundle


def test_the_vocabulary_that_it_was_exported_with_is_believed(reading):
    assert Bundle.open(reading.path).manifest.component("model").assets["vocabulary"]


@pytest.mark.parametrize(
    "words",
    [WORDS + "多\n", WORDS.replace("狗\n", ""), WORDS.replace("猫\n狗", "狗\n猫")],
    ids=["longer", "shorter", "in another order"],
)
def test_another_vocabulary_with_a_right_checksum_is_refused(reading, words):
    path = reading.manifest.assets["vocabulary"]
    file = reading.file(path)
    file.write_text(words, encoding="utf-8")
    manifest = json.loads((reading.path / MANIFEST).read_bytes())
    manifest["files"][path] = {"sha256": sha256(file), "size": file.stat().st_size}
    (reading.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="the vocabulary is not the one that model was exported with"):
        Bundle.open(reading.path)


def test_a_vocabulary_that_is_taken_away_is_refused(reading):
    manifest = json.loads((reading.path / MANIFEST).read_bytes())
    manifest["assets"] = {}
    (reading.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="the vocabulary is not the one"):
        Bundle.open(reading.path)


def test_a_component_without_outputs_is_refused(bundle):
    manifest = json.loads((bundle.path / MANIFEST).read_bytes())
    manifest["components"][0]["signature"]["outputs"] = []
    manifest["components"][0]["answers"] = {}
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="no output of model"):
        Bundle.open(bundle.path)


def test_what_was_made_before_components_named_their_files_is_opened(bundle):
    manifest = json.loads((bundle.path / MANIFEST).read_bytes())
    for component in manifest["components"]:
        component.pop("assets", None)
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    assert Bundle.open(bundle.path).manifest.component("model").assets == {}
