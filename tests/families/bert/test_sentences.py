"""Folders of sentence-transformers: pooling, dense layers, normalisation, the length, and bundles that encode."""

import json

import berts
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import torchlift as tl
from torchlift.declare.answers import Embedding
from torchlift.errors import CheckpointError, InputError

KIND = "sentence_transformers.models."
TEXTS = ["who wrote the old book?", "the", "it is not very good, and the book is red and old and new"]


@pytest.fixture
def folder(tmp_path):
    """Write a folder of sentence-transformers; returns it, and transformers' network."""

    def write(pooling, *, dense=None, normalize=True, modules=None, kind="bert", **said):
        root = tmp_path / "sentences"
        model = berts.network(kind)
        berts.write(root, kind, model=model)
        listed = [("", "Transformer"), ("1_Pooling", "Pooling")]
        (root / "1_Pooling").mkdir()
        (root / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24, **pooling}))
        if dense is not None:
            listed.append(("2_Dense", "Dense"))
            (root / "2_Dense").mkdir()
            config = {"in_features": 24, "out_features": 5, "bias": True, **dense}
            (root / "2_Dense" / "config.json").write_text(json.dumps(config))
            torch.manual_seed(1)
            state = {"linear.weight": torch.randn(5, 24), "linear.bias": torch.randn(5)}
            save_file(state, root / "2_Dense" / "model.safetensors")
        listed += [("3_Normalize", "Normalize")] * normalize
        entries = [{"idx": i, "name": str(i), "path": p, "type": KIND + k} for i, (p, k) in enumerate(listed)]
        (root / "modules.json").write_text(json.dumps(entries if modules is None else modules))
        (root / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, **said}))
        return root, model

    return write


def states(model, texts, length=12):
    """What transformers' network says of each text alone: float32 [tokens, hidden], and its tokens."""
    tokenizer = berts.tokenizer()
    with torch.inference_mode():
        fed = [tokenizer(text, truncation=True, max_length=length, return_tensors="pt") for text in texts]
        return [model(**one).last_hidden_state[0].numpy() for one in fed]


def embedded(found, texts):
    """The embeddings of a model's network, of texts that are padded together."""
    component = found.component("model")
    fed = berts.tokenizer()(texts, truncation=True, max_length=12, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return component.exported(*(fed[name] for name in component.signature.input_names)).numpy()


POOLED = {
    "cls": lambda row: row[0],
    "max": lambda row: row.max(0),
    "mean": lambda row: row.mean(0),
    "mean_sqrt_len_tokens": lambda row: row.sum(0) / len(row) ** 0.5,
    "weightedmean": lambda row: np.average(row, axis=0, weights=np.arange(1, len(row) + 1)),
    "lasttoken": lambda row: row[-1],
}
FLAGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@pytest.mark.parametrize("name", POOLED)
def test_each_pooling_is_that_of_its_name_in_both_forms_of_the_file(load, folder, name, tmp_path):
    root, model = folder({flag: other == name for other, flag in FLAGS.items()}, normalize=False)
    expected = np.stack([POOLED[name](row) for row in states(model, TEXTS)])
    np.testing.assert_allclose(embedded(load(root), TEXTS), expected, rtol=2e-5, atol=2e-5)
    (root / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": name}))
    np.testing.assert_allclose(embedded(load(root), TEXTS), expected, rtol=2e-5, atol=2e-5)
    assert load(root).answers == {"embedding": Embedding(normalize=False)}


def test_several_poolings_lie_side_by_side(load, folder):
    root, model = folder({"pooling_mode": ["mean", "cls"]}, normalize=False)
    expected = [np.concatenate([row[0], row.mean(0)]) for row in states(model, TEXTS)]
    np.testing.assert_allclose(embedded(load(root), TEXTS), expected, rtol=2e-5, atol=2e-5)
    assert load(root).signature.outputs[0].shape == ("batch", 48)


def test_a_dense_layer_and_normalisation_follow(load, folder):
    root, model = folder({"pooling_mode": "mean"}, dense={"activation_function": "torch.nn.modules.activation.Tanh"})
    torch.manual_seed(1)
    weight, bias = torch.randn(5, 24).numpy(), torch.randn(5).numpy()
    expected = np.stack([np.tanh(weight @ row.mean(0) + bias) for row in states(model, TEXTS)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embedded(load(root), TEXTS), expected, rtol=2e-5, atol=2e-5)


def test_the_length_is_that_of_the_sentence_configuration(load, folder):
    model = load(folder({"pooling_mode": "mean"})[0])
    assert model.inputs["input_ids"].length == 12
    assert model.signature.axis("sequence").max == 12
    assert model.pipeline == "text-encoder"


def test_texts_of_any_length_are_encoded_alone_and_together(opened, folder):
    root, model = folder({"pooling_mode": "mean"})
    expected = np.stack([row.mean(0) / np.linalg.norm(row.mean(0)) for row in states(model, TEXTS)])
    encoder = opened(root)
    assert isinstance(encoder, tl.TextEncoder)
    found = encoder.encode(TEXTS)
    assert (found.dtype, found.shape) == (np.float32, (3, 24))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(encoder.encode([text])[0], found[row], atol=1e-5)
    np.testing.assert_array_equal(encoder({"input_ids": TEXTS})["embedding"], found)
    for bad in ([], ["", "the"], [3], "the"):
        with pytest.raises(InputError):
            encoder.encode(bad)


def test_a_prompt_that_is_not_added_is_noted(load, folder):
    root, _ = folder({"pooling_mode": "mean"})
    assert load(root).notes == ()
    (root / "config_sentence_transformers.json").write_text(json.dumps({"default_prompt_name": "query"}))
    assert "query" in load(root).notes[0]


def test_modules_that_are_not_known_are_refused(load, folder):
    entries = [{"path": "", "type": f"{KIND}Transformer"}, {"path": "1_Pooling", "type": f"{KIND}WeightedLayerPooling"}]
    root, _ = folder({"pooling_mode": "mean"}, modules=entries)
    with pytest.raises(CheckpointError, match="WeightedLayerPooling"):
        load(root)
    outside = [{"path": "", "type": "Transformer"}, {"path": "../x", "type": "Pooling"}]
    for modules in ([], [{"path": ""}], {"a": 1}, outside):
        (root / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(CheckpointError):
            load(root)


@pytest.mark.parametrize("pooling", [{}, {"pooling_mode": "median"}, {"pooling_mode": []}])
def test_poolings_that_are_not_known_are_refused(load, folder, pooling):
    root, _ = folder(pooling)
    with pytest.raises(CheckpointError, match="pooling"):
        load(root)


@pytest.mark.parametrize("dense", [{"activation_function": "my.Own"}, {"out_features": 0}])
def test_a_dense_layer_that_is_not_known_is_refused(load, folder, dense):
    root, _ = folder({"pooling_mode": "mean"}, dense=dense)
    with pytest.raises(CheckpointError, match="dense layer"):
        load(root)


def test_a_dense_layer_of_another_width_is_refused(load, folder):
    root, _ = folder({"pooling_mode": "mean"}, dense={"in_features": 23})
    with pytest.raises(CheckpointError, match="rows of 24 numbers"):
        load(root).component("model")
