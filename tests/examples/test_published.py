"""The examples with published weights, on small random ones: nothing is downloaded."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

import torchlift as tl
from torchlift.datasets import PairsData, TextData, open_data

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]


def loaded(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small random BERT as its makers would publish it; its tokenizer fills to 64 tokens unless told otherwise."""
    folder = tmp_path / "bert"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), initializer_range=0.5, **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    stated = json.loads((folder / "tokenizer.json").read_text())
    filled = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None}
    stated["padding"] = {**filled, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    (folder / "tokenizer.json").write_text(json.dumps(stated))
    monkeypatch.setenv("SENTENCES", str(folder))
    return folder


def test_sentences_get_the_embeddings_that_transformers_gives_one_by_one(folder, tmp_path):
    tl.export("module", f"{EXAMPLES / 'sentences' / 'net.py'}:build", tmp_path / "bundle")
    tl.build(tmp_path / "bundle", backends=["onnxruntime"], precisions=["fp32"], rounds=2, batches=[1])
    texts = ["a", "b c d e f g h i j k l m n o p", "x y", "q " * 200]
    with tl.open(tmp_path / "bundle") as pipeline:
        found = pipeline({"input_ids": texts})["embedding"]
    tokenizer, bert = BertTokenizerFast.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    for text, row in zip(texts, found, strict=True):
        fed = tokenizer(text, padding=False, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            mean = bert(**fed).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_pairs_and_texts_of_the_example_share_no_text():
    pairs, texts = open_data(EXAMPLES / "sentences" / "pairs.tsv"), open_data(EXAMPLES / "sentences" / "texts.txt")
    assert isinstance(pairs, PairsData)
    assert isinstance(texts, TextData)
    assert (len(pairs.left), pairs.skips.count, len(texts.texts)) == (94, 0, 64)
    assert pairs.scores.min() == 0
    assert pairs.scores.max() <= 5
    assert not {*pairs.texts} & {*texts.texts}


def test_mobilenet_has_the_parameters_and_the_sizes_of_torchvisions():
    network = loaded(EXAMPLES / "imagenet" / "net.py").MobileNetV2().eval()
    state = network.state_dict()
    assert sum(p.numel() for p in network.parameters()) == 3_504_872
    assert len(state) == 314
    assert [*state][:2] == ["features.0.0.weight", "features.0.1.weight"]
    assert state["features.17.conv.3.weight"].shape == (320,)
    with torch.no_grad():
        x = torch.zeros(1, 3, 224, 224)
        assert network.features(x).shape == (1, 1280, 7, 7)
        assert network(x).shape == (1, 1000)


def test_a_label_counts_only_where_pytorch_is_sure():
    sure = loaded(EXAMPLES / "imagenet" / "sure.py").same_where_sure
    reference = np.array([[9, 0, 0], [9, 0, 0], [0.1, 0, 0]], np.float32)
    other = np.array([[5, 0, 0], [0, 5, 0], [0, 5, 0]], np.float32)
    assert sure(other, reference).tolist() == [1, 0, 1]
