from dataclasses import replace

import pytest
import torch

from torchlift.errors import CheckpointError
from torchlift.families.chinese_clip.architecture import (
    PUBLISHED,
    Architecture,
    Bert,
    VisionTransformer,
    architecture_of,
)
from torchlift.families.chinese_clip.towers import build_image, build_text, expected_shapes

PARAMETERS = {
    "RN50": (38_316_896, 37_886_208, 76_989_537),
    "ViT-B-16": (86_192_640, 101_677_056, 188_262_913),
    "ViT-L-14": (303_966_208, 101_677_056, 406_233_089),
    "ViT-L-14-336": (304_293_888, 101_677_056, 406_560_769),
    "ViT-H-14": (632_076_800, 324_472_832, 957_598_209),
}
"""Of the image tower, of BERT, and in all (with the text projection and logit_scale)."""


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_models_have_the_published_number_of_parameters(name):
    image, text = build_image(PUBLISHED[name]), build_text(PUBLISHED[name])
    assert all(p.is_meta for p in image.parameters())
    assert (count(image), count(text.text_model), count(image) + count(text) + 1) == PARAMETERS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_recognised_from_their_shapes(name):
    found = architecture_of(expected_shapes(PUBLISHED[name]))
    assert found == PUBLISHED[name]
    assert found.name == name


def test_heads_of_vit_h_are_80_wide():
    assert architecture_of(expected_shapes(PUBLISHED["ViT-H-14"])).vision.heads == 16


@pytest.mark.parametrize(
    ("vision", "resolution", "name"),
    [
        (VisionTransformer(128, 4, 2, 512, 8), 64, "vit-128x4-64px"),
        (VisionTransformer(192, 1, 3, 100, 7), 70, "vit-192x1-70px"),
    ],
)
def test_models_of_other_sizes_are_recognised(vision, resolution, name):
    made = Architecture(48, resolution, vision, Bert(64, 1, 1, 80, vocabulary=333, positions=17))
    found = architecture_of(expected_shapes(made))
    assert found == made
    assert found.name == name


def test_resnets_of_other_sizes_are_recognised(resnet):
    found = architecture_of(expected_shapes(resnet))
    assert found == resnet
    assert found.name == "resnet-8x1-2-1-1-64px"


def test_config_states_what_shapes_do_not_tell(vit):
    config = {
        "model_type": "chinese_clip",
        "text_config": {"num_attention_heads": 8, "hidden_act": "relu", "layer_norm_eps": 1e-6},
        "vision_config": {"num_attention_heads": 4, "hidden_act": "gelu"},
    }
    found = architecture_of(expected_shapes(vit), config)
    assert (found.text.heads, found.text.activation, found.text.eps) == (8, "relu", 1e-6)
    assert (found.vision.heads, found.vision.activation, found.vision.eps) == (4, "gelu", 1e-5)


def test_config_with_impossible_heads_is_refused(vit):
    with pytest.raises(CheckpointError, match="states 5 heads for the text tower, of width 64"):
        architecture_of(expected_shapes(vit), {"text_config": {"num_attention_heads": 5, "hidden_size": 5}})


def test_a_config_that_transformers_refuses_is_refused(vit):
    with pytest.raises(CheckpointError, match=r"config\.json cannot be used"):
        architecture_of(expected_shapes(vit), {"text_config": {"num_attention_heads": "many"}})


def test_heads_that_cannot_be_told_are_refused(vit):
    odd = replace(vit, text=replace(vit.text, width=96))
    with pytest.raises(CheckpointError, match="width of the text tower's attention is 96"):
        architecture_of(expected_shapes(odd))


def change(shapes, name, shape):
    return {**shapes, name: shape} if shape is not None else {k: v for k, v in shapes.items() if k != name}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("text_projection.weight", None, "text_projection.weight is missing"),
        ("text_projection.weight", (3,), "must have 2 dimensions"),
        ("text_model.embeddings.word_embeddings.weight", (0, 64), "none of them 0"),
        ("vision_model.embeddings.position_embedding.weight", (12, 128), "12 positions: that is not a square"),
        ("vision_model.embeddings.position_embedding.weight", (1, 128), "1 positions: that is not a square"),
    ],
)
def test_impossible_shapes_are_refused(vit, name, shape, message):
    with pytest.raises(CheckpointError) as caught:
        architecture_of(change(expected_shapes(vit), name, shape))
    assert message in str(caught.value)
    assert caught.value.remedy.startswith("Give a ")


def test_nothing_is_allocated_for_a_published_model():
    assert build_image(PUBLISHED["ViT-H-14"]).visual_projection.weight.device == torch.device("meta")
