import json
import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from datafiles import retrieval, text
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from torchlift.datasets.results import (
    read_features,
    read_predictions,
    write_features,
    write_predictions,
    write_result,
)
from torchlift.errors import DataError, StorageError

NUMBERS = st.floats(-1, 1, width=32)
IDS = st.integers(0, 2**53)


@given(st.data(), st.sampled_from(["image", "text"]))
def test_features_come_back_bit_for_bit(tmp_path_factory, data, side):
    ids = data.draw(st.lists(IDS, min_size=1, max_size=5, unique=True))
    features = data.draw(arrays.arrays(np.float32, (len(ids), 3), elements=NUMBERS))
    file = tmp_path_factory.mktemp("features") / "f.jsonl"
    write_features(file, side, ids, features)
    read_ids, read = read_features(file, side)
    assert read_ids == ids
    np.testing.assert_array_equal(read, features)
    assert read.dtype == np.float32


def test_lines_are_what_python_writes_by_default(tmp_path):
    write_features(tmp_path / "f", "image", np.array([7]), np.array([[0.1, -1]], np.float32))
    assert (tmp_path / "f").read_text() == json.dumps({"image_id": 7, "feature": [float(np.float32(0.1)), -1.0]}) + "\n"
    write_predictions(tmp_path / "p", "text", [(7, [3, 1])])
    assert (tmp_path / "p").read_text() == '{"text_id": 7, "image_ids": [3, 1]}\n'
    write_predictions(tmp_path / "p", "image", [(3, [7])])
    assert (tmp_path / "p").read_text() == '{"image_id": 3, "text_ids": [7]}\n'


def test_a_result_is_in_percent(tmp_path):
    write_result(tmp_path / "r", [0.25, 0.5, 0.75])
    score = {"score": 50.0, "mean_recall": 50.0, "r1": 25.0, "r5": 50.0, "r10": 75.0}
    assert json.loads((tmp_path / "r").read_text()) == {"success": True, "score": 50.0, "scoreJson": score}


def test_a_file_that_cannot_be_finished_leaves_the_one_before(tmp_path):
    file = tmp_path / "p"
    write_predictions(file, "text", [(1, [2])])

    def failing():
        yield 5, [6]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_predictions(file, "text", failing())
    assert file.read_text() == '{"text_id": 1, "image_ids": [2]}\n'
    assert [*tmp_path.iterdir()] == [file]


def test_a_folder_that_may_not_be_written_is_a_storage_error(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="may not be written"):
        write_predictions(tmp_path / "p", "text", [(1, [2])])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"image_id": 1, "feature": [1, 2'], "line 1: Expecting"),
        (['{"image_id": "1", "feature": [1]}'], "whole number"),
        (['{"text_id": 1, "feature": [1]}'], "whole number"),
        (['{"image_id": 1, "feature": ["a"]}'], "could not convert"),
        (['{"image_id": 1, "feature": []}'], "list of numbers"),
        (['{"image_id": 1, "feature": [1]}'] * 2, "has image 1 twice"),
        (['{"image_id": 1, "feature": [1, 2]}', '{"image_id": 2, "feature": [1]}'], r"image 2 has shape \[1\]"),
        (['{"image_id": 1, "feature": [[1], [2]]}'], r"image 1 has shape \[2, 1\]"),
        ([], "no features"),
    ],
)
def test_features_that_cannot_be_used_are_refused(tmp_path, lines, message):
    (tmp_path / "f").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        read_features(tmp_path / "f", "image")


@given(st.lists(st.permutations(range(12)), min_size=1, max_size=6), st.sampled_from(["image", "text"]))
def test_predictions_come_back(tmp_path_factory, rows, query):
    file = tmp_path_factory.mktemp("predictions") / "p.jsonl"
    predictions = {i: row[:10] for i, row in enumerate(rows)}
    write_predictions(file, query, predictions.items())
    assert read_predictions(file, query, [*predictions], range(12)) == predictions


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1: Expecting"),
        (['{"image_id": 1}'], "no whole number text_id"),
        (['{"text_id": 1, "image_ids": ["3", "4"]}'], "no list of whole numbers image_ids"),
        (['{"text_id": 1, "image_ids": 3}'], "no list of whole numbers image_ids"),
        (['{"text_id": 1, "image_ids": [3, 4]}'] * 2, "has text 1 twice"),
        (['{"text_id": 9, "image_ids": [3, 4]}'], "names text 9, which the data set lacks"),
        (['{"text_id": 1, "image_ids": [3, 8]}'], "names image 8, which the data set lacks"),
        (['{"text_id": 1, "image_ids": [3]}'], "text 1 has 1 different image ids in a list of 1"),
        (['{"text_id": 1, "image_ids": [3, 3]}'], "text 1 has 1 different image ids in a list of 2"),
        (['{"text_id": 1, "image_ids": [3, 4]}'], "lacks 1 of 2 texts: 2"),
    ],
)
def test_predictions_that_do_not_fit_the_data_are_refused(tmp_path, lines, message):
    (tmp_path / "p").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(tmp_path / "p", "text", [1, 2], [3, 4, 5], k=2)
    assert caught.value.remedy


# The reference's own scripts ------------------------------------------------------------------------------------------


@pytest.fixture
def reference(monkeypatch):
    """Runs an evaluation script of Chinese-CLIP's package in this process, on the CPU."""
    spec = find_spec("cn_clip")
    if spec is None:
        pytest.skip("cn_clip is not installed")
    torch = pytest.importorskip("torch")
    pytest.importorskip("tqdm")
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    folder = Path(spec.origin).parent

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(folder / script), run_name="__main__")

    return run


@pytest.mark.parametrize("side", ["text", "image"])
def test_the_reference_searches_our_features_and_scores_our_predictions_as_we_do(reference, tmp_path, side):
    rng = np.random.default_rng(0)
    other = {"text": "image", "image": "text"}[side]
    sizes, suffix = {"text": 40, "image": 30}, {"text": "", "image": "_tr"}[side]
    features = {s: rng.standard_normal((n, 16)).astype(np.float32) for s, n in sizes.items()}
    features["image"][: sizes["image"]] += 0.8 * features["text"][: sizes["image"]]
    ids = {s: [1000 + 7 * i for i in range(n)] for s, n in sizes.items()}
    for s in sizes:
        features[s] /= np.linalg.norm(features[s], axis=1, keepdims=True)
        write_features(tmp_path / s, s, ids[s], features[s])
    reference(
        f"eval/make_topk_predictions{suffix}.py",
        *(f"--image-feats={tmp_path / 'image'}", f"--text-feats={tmp_path / 'text'}"),
        f"--output={tmp_path / 'theirs'}",
    )
    order = np.argsort(-features[side] @ features[other].T, axis=1)[:, :10]
    found = {i: [ids[other][c] for c in row] for i, row in zip(ids[side], order, strict=True)}
    write_predictions(tmp_path / "ours", side, found.items())
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()

    retrieval(tmp_path, {}, [text(t, [i]) for t, i in zip(ids["text"], ids["image"], strict=False)])
    answers = tmp_path / "valid_texts.jsonl"
    if side == "image":
        reference("eval/transform_ir_annotation_to_tr.py", f"--input={answers}")
        answers = tmp_path / "valid_texts.tr.jsonl"
    reference(f"eval/evaluation{suffix}.py", answers, tmp_path / "ours", tmp_path / "score")
    right = {q: ids[other][i] for i, q in enumerate(ids[side][: sizes["image"]])}
    write_result(tmp_path / "result", [sum(right[q] in found[q][:k] for q in right) / len(right) for k in (1, 5, 10)])
    assert (tmp_path / "result").read_bytes() == (tmp_path / "score").read_bytes()
    assert json.loads((tmp_path / "score").read_text())["success"]
