"""The shapes example: what it draws and says, and that its training learns and saves what it should."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ChineseCLIPModel

from torchlift.declare.inputs import ImageInput
from torchlift.families.chinese_clip.names import to_transformers
from torchlift.processing.image import prepared
from torchlift.processing.wordpiece import WordPieceTokenizer

STEPS = 80
FOLDER = Path(__file__).parents[2] / "examples" / "shapes"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shapes():
    yield load("shapes")
    del sys.modules["shapes"]


@pytest.fixture(scope="module")
def train(shapes):
    yield load("train")
    del sys.modules["train"]


@pytest.fixture(scope="module")
def tokenizer(train):
    return WordPieceTokenizer(train.vocabulary_file())


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def short(train, tokenizer):
    return train.train(train.Plan(steps=STEPS, batch=36, pictures=36, warm_up=5), tokenizer)


def pixels(picture: Image.Image) -> bytes:
    return picture.tobytes()


def all_captions(shapes):
    rng = np.random.default_rng(0)
    for (colour, shape), size in itertools.product(shapes.COMBINATIONS, shapes.SIZES):
        scene = shapes.Scene(colour, shape, size)
        for templates in (shapes.TEMPLATES, shapes.COLOUR_TEMPLATES, shapes.SHAPE_TEMPLATES):
            yield from (shapes.caption(scene, rng, templates) for _ in range(4))


class TestPictures:
    def test_the_same_seed_draws_the_same(self, shapes):
        first, second = list(shapes.samples(12, 5)), list(shapes.samples(12, 5))
        assert [pixels(s.picture) for s in first] == [pixels(s.picture) for s in second]
        assert [s.caption for s in first] == [s.caption for s in second]

    def test_a_sample_does_not_depend_on_how_many_are_drawn(self, shapes):
        assert pixels(next(shapes.samples(1, 5)).picture) == pixels(next(shapes.samples(9, 5)).picture)

    def test_every_picture_and_every_seed_is_different(self, shapes):
        drawn = [*shapes.samples(120, 1), *shapes.samples(120, 2)]
        assert len({pixels(s.picture) for s in drawn}) == 240

    def test_size_and_mode(self, shapes):
        picture = shapes.draw(shapes.Scene("红", "心形"), np.random.default_rng(0), pixels=96)
        assert (picture.size, picture.mode) == ((96, 96), "RGB")

    def test_the_middle_has_the_colour_and_a_corner_has_not(self, shapes):
        for sample in shapes.samples(120, 3):
            array = np.asarray(sample.picture, np.float32)
            ink = np.array(shapes.COLOURS[sample.scene.colour])
            middle, corner = array[60:68, 60:68].mean((0, 1)), array[:6, :6].mean((0, 1))
            assert abs(middle - ink).max() < 35, sample.scene
            assert abs(corner - middle).max() > 25, sample.scene

    def test_big_shapes_cover_more_than_small_ones(self, shapes):
        for shape in shapes.SHAPES:
            big, small = (
                shapes._mask(shapes.Scene("红", shape, size), np.random.default_rng(0), 64).mean() for size in "大小"
            )
            assert big > 1.5 * small > 0

    def test_seen_and_unseen_share_nothing_but_parts(self, shapes):
        assert len(shapes.COMBINATIONS) == len(shapes.COLOURS) * len(shapes.SHAPES)
        assert set(shapes.SEEN) | set(shapes.UNSEEN) == set(shapes.COMBINATIONS)
        assert not set(shapes.SEEN) & set(shapes.UNSEEN)
        assert {colour for colour, _ in shapes.SEEN} == set(shapes.COLOURS)
        assert {shape for _, shape in shapes.SEEN} == set(shapes.SHAPES)

    def test_samples_keep_to_the_combinations_asked_for(self, shapes):
        assert {(s.scene.colour, s.scene.shape) for s in shapes.samples(20, 0, shapes.UNSEEN)} == set(shapes.UNSEEN)


class TestCaptions:
    def test_they_mention_colour_and_shape(self, shapes):
        for sample in shapes.samples(300, 0):
            assert sample.scene.colour in sample.caption.text
            assert any(name in sample.caption.text for name in shapes.SHAPES[sample.scene.shape])

    def test_what_a_caption_tells_is_in_its_text(self, shapes):
        for caption in all_captions(shapes):
            assert ("colour" in caption.tells) == (caption.scene.colour in caption.text), caption
            assert ("size" in caption.tells) == (caption.scene.size in caption.text), caption

    def test_a_caption_fits_scenes_that_differ_in_what_it_leaves_out(self, shapes):
        caption = shapes.Caption("一个红色的圆形", shapes.Scene("红", "圆形", "大"), tells=("colour", "shape"))
        assert caption.fits(shapes.Scene("红", "圆形", "小"))
        assert not caption.fits(shapes.Scene("蓝", "圆形", "大"))
        assert not caption.fits(shapes.Scene("红", "方形", "大"))

    def test_prompt(self, shapes):
        assert shapes.prompt("红", "圆形") == "一个红色的圆形"


class TestVocabulary:
    def test_layout(self, shapes):
        tokens = shapes.vocabulary()
        assert (tokens[0], *tokens[100:104]) == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        assert len(set(tokens)) == len(tokens)

    def test_no_caption_has_an_unknown_token(self, shapes, tokenizer):
        texts = [caption.text for caption in all_captions(shapes)]
        texts += [shapes.prompt(*combination) for combination in shapes.COMBINATIONS]
        assert 100 not in tokenizer.encode(texts)

    def test_latin_and_digits_are_known(self, tokenizer):
        assert 100 not in tokenizer.encode(["Red circle, 256x256!"])


class TestPreparation:
    def test_pixels_are_those_that_torchlift_serves(self, shapes, train):
        picture = next(shapes.samples(1, 0)).picture
        ours = (train.resized(picture)[None] / 255 - torch.tensor(train.MEAN).view(1, 3, 1, 1)) / torch.tensor(
            train.STD
        ).view(1, 3, 1, 1)
        theirs = prepared(ImageInput((64, 64), train.MEAN, train.STD), picture)
        np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-6)

    def test_matches(self, shapes, train):
        scenes = [shapes.Scene("红", "圆形", "大"), shapes.Scene("红", "圆形", "小"), shapes.Scene("蓝", "圆形", "大")]
        tells = [("colour", "shape"), ("colour", "shape", "size"), ("shape",)]
        captions = [shapes.Caption("", scene, told) for scene, told in zip(scenes, tells, strict=True)]
        assert train.matches(scenes, captions).tolist() == [
            [True, False, True],
            [True, True, True],
            [False, False, True],
        ]

    def test_waves_tell_positions_apart(self, train):
        places = train.waves(4, 128)
        assert places.shape == (16, 128)
        assert torch.cdist(places, places).fill_diagonal_(torch.inf).min() > 1


class TestLoss:
    def test_it_is_0_where_all_that_is_right_shares_equally(self, train):
        match = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
        assert train.contrastive_loss(match * 100.0, match).item() == pytest.approx(0, abs=1e-6)

    def test_it_is_large_where_the_wrong_one_wins(self, train):
        match = torch.eye(3, dtype=torch.bool)
        assert train.contrastive_loss(match * -10.0, match) > 5


class TestTraining:
    def test_the_rate_rises_and_falls(self, train):
        plan = train.Plan(steps=100, warm_up=10)
        rates = [train.rate(step, plan) for step in range(101)]
        assert rates[:10] == sorted(rates[:10])
        assert rates[10] == 1
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[100] == pytest.approx(0, abs=1e-9)

    def test_a_short_training_lowers_the_loss(self, short):
        assert len(short.losses) == STEPS
        assert np.mean(short.losses[-8:]) < 0.85 * np.mean(short.losses[:8])

    def test_the_file_has_the_original_names(self, train, short, tmp_path):
        train.save(short.model, tmp_path / "shapes.pt", step=STEPS)
        file = torch.load(tmp_path / "shapes.pt", weights_only=True)
        assert (file["epoch"], file["step"], file["name"]) == (1, STEPS, "shapes")
        state = file["state_dict"]
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert {name.split(".")[0] for name in state} == {"module"}
        assert state["module.visual.proj"].shape == state["module.text_projection"].shape == (128, 128)
        assert state["module.visual.conv1.weight"].shape == (128, 3, 16, 16)
        assert state["module.visual.transformer.resblocks.0.attn.in_proj_weight"].shape == (384, 128)
        assert state["module.bert.embeddings.word_embeddings.weight"].shape[1] == 128
        assert 0 < state["module.logit_scale"].item() <= train.MAX_LOGIT_SCALE

    def test_the_file_holds_the_model(self, shapes, train, short, tokenizer, tmp_path):
        train.save(short.model, tmp_path / "shapes.pt", step=STEPS)
        state = torch.load(tmp_path / "shapes.pt", weights_only=True)["state_dict"]
        again = ChineseCLIPModel(short.model.config).eval()
        again.load_state_dict(to_transformers({name.removeprefix("module."): t for name, t in state.items()}))
        images = train.Album.draw(4, 0, shapes.SEEN).images
        expected, got = (train.probabilities(model, tokenizer, images) for model in (short.model, again))
        torch.testing.assert_close(got, expected)

    def test_command(self, shapes, train, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(train, "Plan", partial(train.Plan, pictures=108, batch=16))
        monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
        train.main([str(tmp_path / "demo"), "--steps", "2", "--seed", "3"])
        printed = capsys.readouterr().out
        assert {path.name for path in (tmp_path / "demo").iterdir()} == {"shapes.pt", "vocab.txt", "never-seen.png"}
        assert (tmp_path / "demo" / "vocab.txt").read_bytes() == train.vocabulary_file()
        assert Image.open(tmp_path / "demo" / "never-seen.png").size == (256, 256)
        assert printed.count("new pictures") == 2
        assert shapes.prompt(*shapes.UNSEEN[0]) in printed
