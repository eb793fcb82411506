"""The example of texts: it learns, ships under a gate, and tells messages apart."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

import torchlift as tl

FOLDER = Path(__file__).parents[2] / "examples" / "texts"
STEPS = 400


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the command writes, with fewer steps."""
    folder = tmp_path_factory.mktemp("texts")
    spec = spec_from_file_location("train_texts", FOLDER / "train.py")
    module = module_from_spec(spec)
    threads, path = torch.get_num_threads(), [*sys.path]
    try:
        spec.loader.exec_module(module)
        module.main([str(folder), "--steps", str(STEPS)])
    finally:
        sys.path[:] = path
        torch.set_num_threads(threads)
    return folder


def test_messages_ship_under_a_gate(written, tmp_path):
    bundle = tl.ship(
        "bert",
        str(written / "model"),
        tmp_path / "out",
        data=written / "test.tsv",
        calibration=written / "train.tsv",
        backends=["onnxruntime"],
        precisions=["fp32", "int8"],
        limit=200,
        within={"accuracy": 1},
        rounds=2,
    )
    scoring = bundle.manifest.scoring
    assert scoring.task == "text-classification"
    assert scoring.metrics["accuracy"].value > 95
    assert bundle.manifest.choices["model"].variant in {v.name for v in bundle.manifest.variants}
    with tl.open(bundle.path) as messages:
        answer = messages(
            {"input_ids": ["The kettle is not broken.", "Is the lamp dull?", "The coat was really dirty."]}
        )
    assert [row[0][0] for row in answer["logits"]] == ["praise", "question", "complaint"]


def test_what_is_trained_on_is_not_asked(written):
    train, test = (set((written / name).read_text("utf-8").splitlines()[1:]) for name in ("train.tsv", "test.tsv"))
    assert len(test) > 400
    assert not train & test
