import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchlift.declare.answers import Embedding
from torchlift.declare.inputs import ImageInput, TextInput
from torchlift.errors import SignatureError, SourceError
from torchlift.families.chinese_clip.pixels import MEAN, STD
from torchlift.families.chinese_clip.samples import TextSampler
from torchlift.families.chinese_clip.vocabulary import Vocabulary
from torchlift.families.samples import PictureSampler
from torchlift.signature import Axis


def test_the_model_says_what_it_is(write, open_model, vit, vocabulary):
    model = open_model(write(vit))
    assert (model.name, model.family, model.component_names) == ("vit-128x3-48px", "chinese-clip", ("image", "text"))
    assert model.settings == {
        "embedding": 32,
        "resolution": 48,
        "context_length": 40,
        "logit_scale": pytest.approx(4.6052),
    }
    assert model.assets == {"vocabulary": ("vocab.txt", vocabulary(120))}


def test_signatures(write, open_model, vit):
    model = open_model(write(vit))
    image, text = (model.component(name).signature for name in ("image", "text"))
    assert [str(s) for s in (*image.inputs, *image.outputs)] == ["float32[batch, 3, 48, 48]", "float32[batch, 32]"]
    assert [str(s) for s in (*text.inputs, *text.outputs)] == ["int64[batch, sequence]", "float32[batch, 32]"]
    assert (image.input_names, image.output_names) == (("image",), ("unnorm_image_features",))
    assert (text.input_names, text.output_names) == (("text",), ("unnorm_text_features",))
    assert text.inputs[0].bounds == (0, 120)
    assert {a.name: str(a) for a in text.axes} == {"batch": "1..8..128", "sequence": "4..16..40"}


def test_pictures_and_texts_are_declared_as_of_any_model(write, open_model, vit):
    model = open_model(write(vit))
    image, text = (model.component(name) for name in ("image", "text"))
    assert model.pipeline == "dual-encoder"
    assert image.inputs == {"image": ImageInput((48, 48), MEAN, STD)}
    assert text.inputs == {"text": TextInput("vocabulary", 40)}
    assert image.answers == {"unnorm_image_features": Embedding()}
    assert text.answers == {"unnorm_text_features": Embedding()}


def test_axes_are_as_the_user_said(write, open_model, vit):
    axes = {"": {"batch": Axis("batch", 1, 2, 3)}, "text": {"sequence": Axis("sequence", 5, 6, 7)}}
    model = open_model(write(vit), axes=axes)
    assert str(model.component("image").signature.axis("batch")) == "1..2..3"
    assert str(model.component("text").signature.axis("batch")) == "1..2..3"
    assert str(model.component("text").signature.axis("sequence")) == "5..6..7"
    assert model.settings["context_length"] == 7


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"text": {"sequence": Axis("sequence", 1, 2, 41)}}, "1..2..41 is longer than the 40 positions"),
        ({"image": {"sequence": Axis("sequence", 1, 2, 3)}}, "image has no axis 'sequence'"),
        ({"": {"height": Axis("height", 1, 2, 3)}}, "the model has no axis 'height'"),
        ({"audio": {"batch": Axis("batch", 1, 2, 3)}}, "a component 'audio'"),
    ],
)
def test_axes_that_do_not_fit_are_refused(write, open_model, vit, axes, message):
    with pytest.raises(SignatureError) as caught:
        open_model(write(vit), axes=axes)
    assert message in str(caught.value)
    assert caught.value.remedy


def test_unknown_components_and_attention_are_refused(write, open_model, vit):
    model = open_model(write(vit))
    with pytest.raises(SourceError, match="no component 'audio'") as caught:
        model.component("audio")
    assert "image, text" in caught.value.remedy
    with pytest.raises(SourceError, match="'flash' is not known") as caught:
        model.component("text", attention="flash")
    assert "sdpa or eager" in caught.value.remedy


def test_the_key_follows_content_and_options_and_no_path(write, open_model, vit, tmp_path, vocabulary):
    file = write(vit)
    key = open_model(file).key
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "renamed.pt"
    shutil.copy(file, moved)
    shutil.copy(tmp_path / "vocab.txt", moved.parent)
    assert open_model(moved).key == key
    other = tmp_path / "other.txt"
    other.write_bytes(vocabulary(120).replace(b"t7", b"x7"))
    different = [
        open_model(write(vit, name="other.pt", seed=1)).key,
        open_model(file, vocabulary=other).key,
        open_model(file, resolution=96).key,
        open_model(file, axes={"": {"batch": Axis("batch", 1, 1, 1)}}).key,
    ]
    assert len({key, *different}) == 5
    assert open_model(file, resolution=48).key == key


def test_another_resolution(write, open_model, architecture, images):
    doubled = 2 * architecture.resolution
    model = open_model(write(architecture), resolution=doubled)
    component = model.component("image")
    assert model.settings["resolution"] == doubled
    assert model.name.endswith(f"-{doubled}px")
    assert component.signature.inputs[0].shape == ("batch", 3, doubled, doubled)
    features = component.reference(images(doubled))
    np.testing.assert_allclose(component.exported(images(doubled)).numpy(), features.numpy(), atol=1e-5)
    assert features.std() > 0.1


@pytest.mark.parametrize(("resolution", "near"), [(50, 48), (7, 16), (0, 16), (-16, 16)])
def test_a_resolution_that_does_not_divide_is_refused(write, open_model, vit, resolution, near):
    with pytest.raises(SourceError, match=f"{resolution} pixels does not divide into patches of 16") as caught:
        open_model(write(vit), resolution=resolution)
    assert f"for example {near}." in caught.value.remedy


@pytest.mark.parametrize("name", ["image", "text"])
def test_samples_fit_the_signature_and_repeat(write, open_model, vit, name):
    component = open_model(write(vit)).component(name)
    for corner in ("min", "opt", "max"):
        sizes = component.signature.sizes(corner)
        feeds = component.sample(sizes, np.random.default_rng(5))
        assert component.signature.check(feeds) == sizes
        again = component.sample(sizes, np.random.default_rng(5))
        assert all(np.array_equal(feeds[key], again[key]) for key in feeds)


@given(st.integers(1, 60), st.integers(1, 3))
def test_images_lie_in_the_range_of_preprocessing(resolution, batch):
    image = PictureSampler("image", (resolution, resolution), MEAN, STD)({"batch": batch}, np.random.default_rng(0))[
        "image"
    ]
    assert image.shape == (batch, 3, resolution, resolution)
    assert image.dtype == np.float32
    pixels = image * np.reshape(STD, (3, 1, 1)) + np.reshape(MEAN, (3, 1, 1))
    assert pixels.min() >= -1e-5
    assert pixels.max() <= 1 + 1e-5


def sampler(*entries):
    return TextSampler(Vocabulary(b"", entries))


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 2**32))
def test_texts_are_framed_and_padded(batch, sequence, seed):
    draw = sampler("[PAD]", "a", "[UNK]", "[SEP]", "[CLS]", "b", "c")
    text = draw({"batch": batch, "sequence": sequence}, np.random.default_rng(seed))["text"]
    assert text.shape == (batch, sequence)
    assert text.dtype == np.int64
    lengths = (text != 0).sum(1)
    assert lengths[0] == sequence
    for row, length in zip(text, lengths, strict=True):
        assert row[0] == 4
        assert not row[length:].any()
        assert length == 1 or row[length - 1] == 3
        assert set(row[1 : max(1, length - 1)]) <= {1, 5, 6}


def test_a_vocabulary_without_special_entries_gives_plain_texts():
    text = sampler("x", "y", "z")({"batch": 20, "sequence": 9}, np.random.default_rng(0))["text"]
    assert set(np.unique(text)) == {0, 1, 2}
    assert text[0].all()


def test_a_vocabulary_of_special_entries_only_still_gives_texts():
    text = sampler("[PAD]", "[CLS]", "[SEP]")({"batch": 2, "sequence": 4}, np.random.default_rng(0))["text"]
    assert text.max() <= 2


def test_scales_of_fake_quantisation_go_by_the_modules_that_are_exported(write, open_model, vit):
    """Original names in the checkpoint; a fused projection's scales are parted as its weight is."""
    width = vit.vision.width

    def change(state):
        layer = "visual.transformer.resblocks.1"
        state["visual.conv1.input_quantizer._amax"] = torch.tensor(2.0)
        state[f"{layer}.attn.in_proj.weight_quantizer._amax"] = torch.linspace(1, 2, 3 * width)
        state[f"{layer}.attn.in_proj.input_quantizer._amax"] = torch.tensor(3.0)
        state[f"{layer}.mlp.c_fc.weight_fake_quant.scale"] = torch.full((1,), 0.5)
        state["bert.encoder.layer.0.intermediate.dense.input_quantizer._amax"] = torch.tensor(4.0)

    model = open_model(write(vit, change=change))
    image, text = (model.component(name) for name in ("image", "text"))
    layer = "vision_model.encoder.layers.1"
    projections = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
    assert {*image.scales} == {"vision_model.embeddings.patch_embedding", f"{layer}.mlp.fc1", *projections}
    assert [image.scales[path].input for path in projections] == [(-3, 3)] * 3
    joined = np.concatenate([image.scales[path].weight for path in projections])
    np.testing.assert_array_equal(joined, torch.linspace(1, 2, 3 * width).numpy())
    assert image.scales[f"{layer}.mlp.fc1"].weight == pytest.approx(63.5)
    assert {*text.scales} == {"text_model.encoder.layer.0.intermediate.dense"}
    for component in (image, text):
        assert {*component.scales} <= {path for path, _ in component.exported.named_modules()}
