"""A BERT of a user's own: it declares a text input and its tokenizer's file, ships, and then takes strings."""

import numpy as np
import pytest
import tokenizers
from shipped import torchlift as command
from tokenizers.processors import TemplateProcessing

from torchlift.bundle import Bundle
from torchlift.declare.inputs import TextInput, TextPart
from torchlift.errors import ModuleSourceError
from torchlift.families.base import LoadOptions
from torchlift.families.module import ModuleFamily
from torchlift.pipelines import open_bundle

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["a", "bad", "dull", "film", "fine", "good", "great", "is", "the", "was"]]

NET = """
import torch
from torch import nn

import torchlift as tl


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding({rows}, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask, token_type_ids):
        kept = attention_mask[..., None].float()
        there = self.words(input_ids) + token_type_ids[..., None].float()
        found = self.layer(there, src_key_padding_mask=attention_mask == 0)
        return self.head((found * kept).sum(1) / kept.sum(1))


IDS, TOKENS = ("input_ids", "attention_mask", "token_type_ids"), ("batch", "sequence")


@tl.module(
    inputs=[tl.TensorSpec(name, "int64", TOKENS) for name in IDS],
    outputs=["logits"],
    axes=[tl.Axis("batch", 1, 2, 4), tl.Axis("sequence", 3, 6, 8)],
    preprocess={{
        "input_ids": tl.TextInput("{tokenizer}", length=8),
        "attention_mask": tl.TextPart("input_ids"),
        "token_type_ids": tl.TextPart("input_ids", "types"),
    }},
    postprocess={{"logits": tl.Labels(("bad", "good"), top=2)}},
)
def build():
    return Bert().eval()
"""


def write_tokenizer(file):
    words = {word: number for number, word in enumerate(WORDS)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.save(str(file))


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab.txt"])
def shipped(request, tmp_path_factory):
    """The bundle of a BERT, by either file of a tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "bert_net.py").write_text(NET.format(rows=len(WORDS), tokenizer=request.param))
    write_tokenizer(folder / "tokenizer.json")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    source = f"{folder / 'bert_net.py'}:build"
    said = command("ship", source, "-o", folder / "bert", "--backend", "onnxruntime", "--rounds", 2)
    assert said.code == 0, said.err
    return folder / "bert", request.param


def test_the_manifest_declares_the_text_and_has_its_tokenizer(shipped):
    path, file = shipped
    bundle = Bundle.open(path)
    (component,) = bundle.manifest.components
    assert component.inputs["input_ids"] == TextInput(file, 8)
    assert component.inputs["attention_mask"] == TextPart("input_ids")
    assert [spec.bounds for spec in component.signature.inputs] == [(0, len(WORDS)), (0, 2), (0, 2)]
    assert bundle.manifest.assets == {file: f"assets/{file}"}


def test_it_takes_strings_of_any_length_in_any_order(shipped):
    path, _ = shipped
    texts = ["a good film", "bad", "the film was fine", "dull", "is", "the film was a great film is"]
    with open_bundle(path) as bert:
        together, alone = bert({"input_ids": texts}), [bert({"input_ids": [text]})["logits"][0] for text in texts]
        logits = bert.arrays({"input_ids": texts})["logits"]
        ids = np.array([[2, WORDS.index("bad"), 3]])
        by_ids = bert.arrays({"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0})["logits"]
    assert len({label for row in together["logits"] for label, _ in row}) == 2
    for row, one in zip(together["logits"], alone, strict=True):
        assert [label for label, _ in row] == [label for label, _ in one]
        assert [score for _, score in row] == pytest.approx([score for _, score in one], abs=1e-4)
    np.testing.assert_allclose(by_ids[0], logits[1], atol=1e-5)


def test_texts_are_given_to_it_on_the_command_line(shipped):
    path, _ = shipped
    said = command("run", path, "--text", "a good film", "--text", "dull")
    assert said.code == 0, said.err
    assert said.out.count("good") == said.out.count("bad") == 2
    assert command("run", path, "--image", "a.png").code == 2


@pytest.mark.parametrize(
    ("tokenizer", "content", "message"),
    [
        ("gone.json", None, "the tokenizer of input_ids, .*gone.json, cannot be read"),
        ("broken.json", b"{", "tokenizer.json cannot be read"),
        ("vocab.txt", b"a\nb\n", r"has no \[PAD\]"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_refused_before_anything_is_exported(tmp_path, tokenizer, content, message):
    (tmp_path / "broken_net.py").write_text(NET.format(rows=len(WORDS), tokenizer=tokenizer))
    if content is not None:
        (tmp_path / tokenizer).write_bytes(content)
    with pytest.raises(ModuleSourceError, match=message):
        ModuleFamily().load(f"{tmp_path / 'broken_net.py'}:build", LoadOptions())


def test_a_network_with_fewer_rows_than_the_tokenizer_has_tokens_is_refused(tmp_path):
    (tmp_path / "narrow_net.py").write_text(NET.format(rows=len(WORDS) - 4, tokenizer="tokenizer.json"))
    write_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ModuleSourceError, match="the network does not run"):
        ModuleFamily().load(f"{tmp_path / 'narrow_net.py'}:build", LoadOptions())
