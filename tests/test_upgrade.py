"""Bundles that version 1 wrote, packed beside what it answered: they open, mean the same, and answer the same."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from shipped import pictures
from staged import Recorder

from torchlift.archive import unpack
from torchlift.bundle import Bundle
from torchlift.declare.answers import Embedding, Labels
from torchlift.declare.inputs import ImageInput, TextInput
from torchlift.errors import BundleError
from torchlift.families.chinese_clip.pixels import MEAN, STD
from torchlift.machine import this_machine
from torchlift.manifest import MANIFEST, MANIFEST_VERSION
from torchlift.pipelines import open_bundle
from torchlift.prove.verify import proven_here, provenance

DATA = Path(__file__).parent / "data" / "version1"


@pytest.fixture(params=["clip", "net"])
def name(request):
    return request.param


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def unpacked(tmp_path):
    def make(name):
        unpack(DATA / f"{name}.zip", tmp_path / name)
        return tmp_path / name

    return make


def made_here(path):
    """As if this machine and its runtimes had proven, scored and measured the bundle."""
    bundle = Bundle.open(path)
    data = json.loads((path / MANIFEST).read_text())
    machine = msgspec.to_builtins(this_machine())
    runtimes = {v.name: provenance(bundle, v).runtime for v in bundle.manifest.variants}
    for variant in data["variants"]:
        name = f"{variant['component']}/{variant['backend']}/{variant['precision']}"
        name += f"-{variant['method']}" if variant.get("method") else ""
        variant["verification"]["provenance"] |= {"machine": machine, "runtime": runtimes[name]}
        score = data["scoring"]["scores"][name]
        score["provenance"] |= {"machine": machine, "runtime": runtimes[name]}
    (path / MANIFEST).write_text(json.dumps(data))
    return path


def test_it_is_read_as_the_version_of_today(unpacked, name):
    path = unpacked(name)
    assert json.loads((path / MANIFEST).read_text())["version"] == 1
    manifest = Bundle.open(path).manifest
    assert manifest.version == MANIFEST_VERSION
    assert {c.name for c in manifest.components} == {*manifest.choices}


def test_what_was_code_or_settings_is_declared(unpacked):
    clip = Bundle.open(unpacked("clip")).manifest
    image, text = (clip.component(name) for name in ("image", "text"))
    assert clip.pipeline == "dual-encoder"
    assert image.inputs == {"image": ImageInput((16, 16), MEAN, STD)}
    assert text.inputs == {"text": TextInput("vocabulary", 24)}
    assert image.answers == {"unnorm_image_features": Embedding()}
    net = Bundle.open(unpacked("net")).manifest
    (model,) = net.components
    assert (net.pipeline, net.settings) == ("tensors", {})
    assert model.inputs["image"] == ImageInput((24, 24), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    assert model.answers["logits"] == Labels(("circle", "square", "star", "moon"), top=2)


def test_variants_stay_proven(unpacked, name):
    bundle = Bundle.open(made_here(unpacked(name)))
    assert [v.name for v in bundle.manifest.variants if not proven_here(bundle, v)] == []


def test_it_answers_what_it_answered(unpacked, name, recorder):
    expected = np.load(DATA / f"{name}.npz")
    with open_bundle(made_here(unpacked(name)), progress=recorder) as pipeline:
        if name == "clip":
            found = {
                "images": pipeline.encode_image(pictures(3, seed=9)),
                "texts": pipeline.encode_text(["一只猫", "红色的汽车"]),
            }
        else:
            found = pipeline.arrays({"image": pictures(3, seed=9)})
    for key, array in found.items():
        np.testing.assert_allclose(array, expected[key], rtol=1e-4, atol=1e-5)
    assert recorder.notes == [], "nothing was verified again"


@pytest.mark.parametrize(
    "change",
    [
        {"settings": 7},
        {"components": [7]},
        {"settings": {"inputs": 7}},
        {"settings": {"inputs": {"image": 7}}},
    ],
)
def test_damage_is_told_as_in_any_manifest(unpacked, change):
    path = unpacked("net")
    data = json.loads((path / MANIFEST).read_text()) | change
    (path / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BundleError, match="is damaged"):
        Bundle.open(path)


def test_a_bundle_of_version_2_opens_and_answers_the_same(tmp_path):
    data = DATA.parent / "version2"
    unpack(data / "net.zip", tmp_path / "net")
    assert json.loads((tmp_path / "net" / MANIFEST).read_text())["version"] == 2
    manifest = Bundle.open(tmp_path / "net").manifest
    (component,) = manifest.components
    assert manifest.version == MANIFEST_VERSION
    assert (component.call, component.failure) == (None, "")
    kept = np.load(data / "net.npz")
    with open_bundle(tmp_path / "net") as net:
        np.testing.assert_allclose(net.arrays({"image": kept["image"]})["logits"], kept["logits"], rtol=1e-4, atol=1e-5)
