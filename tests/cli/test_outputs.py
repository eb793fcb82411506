"""``run --output``: which arrays go into which files."""

import json
from pathlib import Path

import click
import numpy as np
import pytest
from shipped import misused, refused, torchlift

from torchlift.cli.outputs import Target, parse_outputs, write_outputs

ARRAYS = {"score": np.arange(6, dtype=np.float32).reshape(2, 3), "file": np.array([1, 2], np.int64)}


@pytest.fixture
def saved(tmp_path):
    """Write ``ARRAYS`` as ``--output`` says, and read what is there: file -> array, or name -> array."""

    def save(*texts, arrays=ARRAYS):
        write_outputs(parse_outputs([text.replace("HERE", str(tmp_path)) for text in texts]), arrays)
        files = sorted(tmp_path.iterdir())
        return {f.name: np.load(f) if f.suffix == ".npy" else dict(np.load(f)) for f in files}

    return save


def test_the_only_output_needs_no_name(saved):
    found = saved("HERE/a.npy", arrays={"score": ARRAYS["score"]})
    assert found["a.npy"].dtype == np.float32
    np.testing.assert_array_equal(found["a.npy"], ARRAYS["score"])


def test_outputs_go_by_name_each_to_its_file_and_all_of_them_into_one(saved):
    found = saved("score=HERE/s.npy", "HERE/all.npz", "file=HERE/f.npz")
    np.testing.assert_array_equal(found["s.npy"], ARRAYS["score"])
    assert {name: array.dtype for name, array in found["all.npz"].items()} == {"score": "float32", "file": "int64"}
    assert found["f.npz"].keys() == {"file"}
    np.testing.assert_array_equal(found["f.npz"]["file"], ARRAYS["file"])


def test_a_file_that_is_there_is_replaced_and_nothing_is_left_beside_it(saved, tmp_path):
    (tmp_path / "a.npy").write_bytes(b"before")
    assert [*saved("score=HERE/a.npy")] == ["a.npy"]


@pytest.mark.parametrize("text", ["a", "a.txt", "score=", "=a.npy", "score=a.csv", ""])
def test_a_file_of_another_kind_is_wrong_usage(text):
    with pytest.raises(click.UsageError, match=r"\.npy or a \.npz"):
        parse_outputs([text])


def test_a_path_may_hold_an_equals_sign():
    assert parse_outputs(["./a=b.npy"]) == (Target("", Path("a=b.npy")),)


def test_one_file_for_two_outputs_is_wrong_usage():
    with pytest.raises(click.UsageError, match="given twice"):
        parse_outputs(["a=x.npy", "b=./x.npy"])


@pytest.mark.parametrize(("text", "said"), [("other=a.npy", "the outputs are score, file"), ("a.npy", "score=a.npy")])
def test_what_names_no_output_or_not_one_is_wrong_usage_with_those_that_there_are(text, said):
    (target,) = parse_outputs([text])
    with pytest.raises(click.UsageError, match=said):
        target.names(["score", "file"])


def test_run_writes_what_the_model_gives_for_labels(net, picture, tmp_path):
    file = tmp_path / "logits.npy"
    said = torchlift("run", net.path, "--image", picture, "--image", picture, "--output", file)
    assert said.code == 0, said.err
    logits = np.load(file)
    assert (logits.shape, logits.dtype) == ((2, 4), np.float32)
    assert f"{file}: logits float32[2, 4]" in said.out
    ((best, _), *_) = json.loads(torchlift("run", net.path, "--image", picture, "--json").out)["logits"][0]
    assert ("circle", "square", "star", "moon")[int(logits[0].argmax())] == best


def test_run_writes_features_and_probabilities(clip, picture, tmp_path):
    features, chances = tmp_path / "image.npy", tmp_path / "chances.npz"
    assert torchlift("run", clip.path, "--image", picture, "-o", features).code == 0
    assert np.load(features).shape == (1, 32)
    arguments = ("--image", picture, "--text", "猫", "--text", "狗", "-o", chances)
    shares = json.loads(torchlift("run", clip.path, *arguments, "--json").out)[str(picture)]
    np.testing.assert_allclose(np.load(chances)["probabilities"], [[*shares.values()]], atol=1e-6)


def test_a_name_that_the_bundle_lacks_is_said_before_anything_runs(net, clip, picture, tmp_path):
    assert "logits" in misused(torchlift("run", net.path, "--image", picture, "-o", f"score={tmp_path / 'a.npy'}"))
    assert "text" in misused(torchlift("run", clip.path, "--text", "猫", "-o", f"image={tmp_path / 'a.npy'}"))
    assert [*tmp_path.glob("*.npy")] == []


def test_a_folder_that_is_not_there_is_an_error(net, picture, tmp_path):
    message, _ = refused(torchlift("run", net.path, "--image", picture, "-o", tmp_path / "missing" / "a.npy"))
    assert "missing" in message
