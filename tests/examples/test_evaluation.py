"""The retrieval set of the shapes example."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from torchlift.datasets import ReadOptions, open_data

FOLDER = Path(__file__).parents[2] / "examples" / "shapes"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def evaluation():
    load("shapes")
    yield load("evaluation")
    del sys.modules["shapes"], sys.modules["evaluation"]


@pytest.fixture(scope="module")
def written(evaluation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("muge")
    evaluation.main([str(folder), "--pictures", "130", "--texts", "60"])
    return folder


@pytest.mark.parametrize(("split", "pictures", "texts"), [("train", 65, 30), ("valid", 130, 60)])
def test_a_split_is_read_back(written, split, pictures, texts):
    data = open_data(written, ReadOptions(split=split))
    assert len(data.images.ids) == pictures
    assert len(data.texts) == texts
    assert len({text.text for text in data.texts}) == texts
    assert {i for text in data.texts for i in text.image_ids} <= {*data.images.ids}


def test_captions_tell_colour_shape_and_size_and_name_every_picture_they_fit(evaluation, written):
    scenes = [s.scene for s in evaluation.draw_split(130, evaluation.SEEDS["valid"])]
    for text in open_data(written, ReadOptions(split="valid")).texts:
        described = {scenes[i] for i in text.image_ids}
        assert len(described) == 1, "all that a caption fits look alike"
        scene = next(iter(described))
        assert scene.colour in text.text
        assert scene.size in text.text
        assert [i for i, other in enumerate(scenes) if other == scene] == [*text.image_ids]


def test_splits_share_no_picture(evaluation):
    train, valid = (evaluation.draw_split(60, seed) for seed in evaluation.SEEDS.values())
    assert not {s.picture.tobytes() for s in train} & {s.picture.tobytes() for s in valid}


def test_pictures_are_png(evaluation):
    from torchlift.declare.inputs import ImageInput
    from torchlift.processing.image import prepared

    data = evaluation.as_png(evaluation.draw_split(1, 0)[0].picture)
    assert data.startswith(b"\x89PNG")
    assert prepared(ImageInput((evaluation.PIXELS,) * 2), data).shape == (3, evaluation.PIXELS, evaluation.PIXELS)
    assert np.ptp(prepared(ImageInput((32, 32)), data)) > 0.1
