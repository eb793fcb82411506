"""Variants by name, with and without their component; and what it costs where one is refused."""

import json

import numpy as np
import pytest
from shipped import refused, torchlift

import torchlift as tl
from torchlift.bundle import Bundle
from torchlift.errors import BackendUnavailableError, BundleError, InputError
from torchlift.manifest import read_manifest

CLIP = {f"{component}/{backend}/fp32" for component in ("image", "text") for backend in ("onnxruntime", "openvino")}
EXACT, STRICT = ("--tolerance", "fp32=1e-12"), ("--tolerance", "int8=1e-9")
INT8, DYNAMIC = "model/onnxruntime/int8", "model/onnxruntime/int8-dynamic"
"""Of the classifier of colours: the first was refused when it was built, the second agrees. FP32 is chosen."""


@pytest.fixture
def net_input(tmp_path):
    """What the classifier of colours takes, as an option of ``run``."""
    file = tmp_path / "image.npy"
    np.save(file, np.zeros((1, 3, 16, 16), np.float32))
    return file


def test_a_name_without_its_component_means_that_variant_of_every_component(clip):
    manifest = read_manifest(clip.path)
    assert {v.name for v in manifest.variants} == CLIP
    assert [v.name for v in manifest.variants_called("openvino/fp32")] == ["image/openvino/fp32", "text/openvino/fp32"]
    assert [v.name for v in manifest.variants_called("text/openvino/fp32")] == ["text/openvino/fp32"]


def test_a_name_of_several_variants_is_refused_where_one_is_needed(clip, net):
    assert read_manifest(net.path).variant("onnxruntime/fp32").name == "model/onnxruntime/fp32"
    with pytest.raises(BundleError) as caught:
        read_manifest(clip.path).variant("openvino/fp32")
    assert caught.value.remedy == "Name one of image/openvino/fp32, text/openvino/fp32."


@pytest.mark.parametrize("name", ["openvino/fp61", "model/openvino/fp32", "openvino", ""])
def test_a_name_of_no_variant_is_refused_with_those_that_there_are(clip, name):
    for find in (read_manifest(clip.path).variant, read_manifest(clip.path).variants_called):
        with pytest.raises(BundleError) as caught:
            find(name)
        assert all(known in caught.value.remedy for known in CLIP)


def test_commands_take_a_name_without_its_component(clip, net, tmp_path):
    assert torchlift("run", clip.path, "--text", "猫", "--variant", "openvino/fp32").code == 0
    shown = torchlift("inspect", net.path, "--variant", "onnxruntime/fp32", "--json")
    assert json.loads(shown.out)["backend"] == "onnxruntime"
    layers = torchlift("inspect", net.path, "--variant", "onnxruntime/fp32", "--layers")
    assert layers.out.strip().startswith("model/onnxruntime/fp32: layers")
    assert "model/onnxruntime/fp32" in torchlift("bisect", net.path, "--variant", "onnxruntime/fp32").out
    message, remedy = refused(torchlift("run", clip.path, "--text", "猫", "--variant", "openvino/int8"))
    assert "openvino/int8" in message
    assert "text/openvino/fp32" in remedy


def test_a_variant_that_is_not_chosen_and_was_refused_before_costs_verify_nothing(colours_copy):
    said = torchlift("verify", colours_copy)
    assert said.code == 0, said.err
    assert f"{INT8} is refused" in said.out


def test_verify_fails_where_a_variant_is_refused_that_agreed_before_and_only_then(colours_copy):
    said = [torchlift("verify", colours_copy, *STRICT) for _ in range(2)]
    assert [one.code for one in said] == [1, 0]
    assert all(f"{DYNAMIC} is refused" in one.out for one in said)


def test_verify_fails_where_a_chosen_variant_is_refused_however_often(colours_copy):
    assert [torchlift("verify", colours_copy, *EXACT).code for _ in range(2)] == [1, 1]
    assert torchlift("verify", colours_copy).code == 0


def test_verify_fails_where_no_variant_of_a_component_agrees_though_none_is_chosen(net_copy):
    bundle = Bundle.open(net_copy)
    bundle.commit(type(bundle.manifest)(**{**vars(bundle.manifest), "choices": {}}))
    assert [torchlift("verify", net_copy, *EXACT).code for _ in range(2)] == [1, 1]


def test_a_variant_that_is_named_fails_verify_and_is_verified_alone(colours_copy):
    before = read_manifest(colours_copy)
    said = torchlift("verify", colours_copy, "--variant", "onnxruntime/int8", "--json")
    assert said.code == 1
    assert json.loads(said.out).keys() == {INT8}
    others = {v.name: v.verification for v in before.variants if v.name != INT8}
    after = read_manifest(colours_copy)
    assert {v.name: v.verification for v in after.variants if v.name != INT8} == others
    assert torchlift("verify", colours_copy, "--variant", DYNAMIC).code == 0


def test_only_what_runs_here_can_be_asked_for(colours_copy, monkeypatch):
    with pytest.raises(InputError):
        tl.verify(colours_copy, variants=INT8)
    with pytest.raises(BundleError):
        tl.verify(colours_copy, variants=["model/onnxruntime/fp61"])
    monkeypatch.setattr("torchlift.backends.onnxruntime.OnnxRuntimeCpu.provider", "NoneOfThemProvider")
    with pytest.raises(BackendUnavailableError):
        tl.verify(colours_copy, variants=[INT8])


def test_a_variant_that_was_refused_is_said_to_be_refused_before_it_is_tried_again(colours_copy, net_input):
    said = torchlift("run", colours_copy, "--input", f"image={net_input}", "--variant", INT8)
    notes = [line for line in said.err.splitlines() if line.startswith(f"note: {INT8}")]
    assert "was refused here" in notes[0]
    assert "of the scale" in notes[0]
    assert not any("not verified on this machine" in note for note in notes)
