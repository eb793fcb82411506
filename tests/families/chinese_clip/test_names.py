import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchlift.errors import CheckpointError
from torchlift.families.chinese_clip import to_original, to_transformers
from torchlift.families.chinese_clip.names import original_name


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_both_directions_give_back_the_same_weights(architecture, weights_of):
    weights = weights_of(architecture)
    assert same(to_transformers(to_original(weights)), weights)
    original = to_original(weights)
    assert same(to_original(to_transformers(original)), original)


def test_the_original_names_are_those_of_the_published_files(vit, weights_of):
    original = to_original(weights_of(vit))
    layer = "visual.transformer.resblocks.2."
    assert {
        "logit_scale",
        "text_projection",
        "visual.proj",
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.conv1.weight",
        "visual.ln_pre.weight",
        "visual.ln_post.bias",
        "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.1.attention.self.query.weight",
        *(layer + n for n in ("ln_1.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_proj.bias")),
        *(layer + n for n in ("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight")),
    } <= original.keys()
    assert not any("vision_model" in name or "text_model" in name for name in original)
    assert original["visual.proj"].shape == (128, 32)
    assert original[layer + "attn.in_proj_weight"].shape == (384, 128)


def test_rows_of_in_proj_are_query_key_value(vit, weights_of):
    weights = weights_of(vit)
    joined = to_original(weights)["visual.transformer.resblocks.0.attn.in_proj_weight"]
    assert torch.equal(joined[128:256], weights["vision_model.encoder.layers.0.self_attn.k_proj.weight"])


def test_transformers_own_model_takes_the_renamed_weights(transformers_folder):
    _, model = transformers_folder()
    state = to_transformers(to_original(model.state_dict()))
    assert same(state, {k: v for k, v in model.state_dict().items() if not k.endswith("position_ids")})


def test_flash_attention_names_are_accepted(vit, weights_of):
    original = to_original(weights_of(vit))
    renamed = {k.replace("attn.in_proj_", "attn.Wqkv."): v for k, v in original.items()}
    assert any("Wqkv.weight" in name for name in renamed)
    assert same(to_transformers(renamed), to_transformers(original))


def test_pooler_and_position_ids_are_left_out():
    state = {
        "bert.pooler.dense.weight": torch.ones(2, 2),
        "bert.embeddings.position_ids": torch.arange(3),
        "logit_scale": torch.tensor(1.0),
    }
    assert to_transformers(state).keys() == {"logit_scale"}


def test_weights_are_views_not_copies(vit, weights_of):
    original = to_original(weights_of(vit))
    for name, tensor in to_transformers(original).items():
        source = original[original_name(name)]
        assert tensor.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


def test_the_file_name_of_every_weight_is_known(architecture, weights_of):
    weights = weights_of(architecture)
    assert {original_name(name) for name in weights} == to_original(weights).keys()


def test_a_missing_projection_is_named(vit, weights_of):
    weights = weights_of(vit)
    del weights["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(CheckpointError, match=r"resblocks\.1\.attn\.in_proj_bias cannot be made: k_proj is missing"):
        to_original(weights)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("text_projection", (3,), "text_projection has shape [3]; it must have two dimensions"),
        ("visual.transformer.resblocks.0.attn.in_proj_weight", (4, 2), "in equal parts"),
        ("visual.transformer.resblocks.0.attn.in_proj_bias", (), "in equal parts"),
    ],
)
def test_a_tensor_that_cannot_be_renamed_is_named(name, shape, message):
    with pytest.raises(CheckpointError) as caught:
        to_transformers({name: torch.zeros(shape)})
    assert name in str(caught.value)
    assert caught.value.remedy.startswith("Give a ")
    assert message in str(caught.value)


@given(st.text(st.characters(codec="ascii"), min_size=1))
def test_unknown_names_are_kept(name):
    name = "unknown." + name
    if not name.endswith(".position_ids"):
        assert to_transformers({name: torch.ones(1)}).keys() == {name}
