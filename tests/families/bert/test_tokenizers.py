"""Texts become the ids that transformers makes of them, on every string."""

import json
import shutil

import berts
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlift.errors import CheckpointError
from torchlift.families.bert.tokenizers import read_tokenizer
from torchlift.processing.tokenizer_json import JsonTokenizer

TEXTS = [
    "The old house by the river was sold in 1987, and nobody knew why.",
    "Who wrote it? A man of letters: naïve, but not unkind.",
    "猫坐在垫子上。谁写了它？",
    "I'm happy — they're not; we'll see.",
    "Ünïcode, ﬁne print and ½ of a tab\there.",
]
LENGTH = 24
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
WRITTEN = st.lists(st.sampled_from([word for text in TEXTS for word in text.split()]), max_size=30).map(" ".join)
TOKENS = ["<s>", "</s>", "<mask>", "<pad>", "[CLS]", "[SEP]", "[MASK]", " a", "The"]
SPECIAL = st.lists(st.sampled_from(TOKENS), max_size=8)


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram", "bert"])
def both(request, tmp_path_factory):
    """transformers' tokenizer of a folder, and ours of the same folder."""
    import transformers

    folder = tmp_path_factory.mktemp("tokenizer")
    made = berts.tokenizer() if request.param == "bert" else berts.trained(request.param, TEXTS)
    made.save_pretrained(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return theirs, JsonTokenizer(read_tokenizer(folder, {"model_type": "bert"}).content, LENGTH)


def same(both, text, pair=None):
    theirs, ours = both
    given = [text if pair is None else (text, pair)]
    expected = theirs(given, truncation=True, max_length=LENGTH, return_token_type_ids=True)
    found = ours(given)
    assert found.ids == expected["input_ids"]
    assert found.types == expected["token_type_ids"]
    assert found.pad == theirs.pad_token_id


@given(text=ANY | WRITTEN | SPECIAL.map("".join) | SPECIAL.map(" ".join))
def test_ids_are_those_of_transformers(both, text):
    same(both, text)


@given(text=ANY | WRITTEN, pair=ANY | WRITTEN)
def test_ids_of_pairs_are_those_of_transformers(both, text, pair):
    same(both, text, pair)


@given(text=ANY | WRITTEN)
def test_places_are_those_of_transformers(both, text):
    theirs, ours = both
    expected = theirs(
        text, truncation=True, max_length=LENGTH, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    (found,) = ours.places([text])
    assert [place for place in found if place is not None] == [
        tuple(place)
        for place, special in zip(expected["offset_mapping"], expected["special_tokens_mask"], strict=True)
        if not special
    ]


def test_a_vocab_txt_is_read_as_transformers_reads_it(tmp_path):
    import transformers

    (tmp_path / "vocab.txt").write_text("\n".join(berts.VOCABULARY))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    )
    found = read_tokenizer(tmp_path, {"model_type": "bert"})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, config=transformers.BertConfig())
    text = "The book of who, NOT a bad book"
    assert JsonTokenizer(found.content, LENGTH)([text]).ids == [theirs(text)["input_ids"]]
    assert berts.VOCABULARY.index("[UNK]") in theirs(text)["input_ids"]  # no lower case
    assert (found.pad, found.marks, found.mask) == (0, (2, 3), 4)


def test_vocab_json_and_merges_are_read_as_transformers_reads_them(tmp_path):
    import transformers

    made = berts.trained("bpe", TEXTS)
    made.backend_tokenizer.model.save(str(tmp_path))
    found = read_tokenizer(tmp_path, {"model_type": "roberta"})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, config=transformers.RobertaConfig())
    for text in TEXTS:
        assert JsonTokenizer(found.content, 200)([text]).ids == [theirs(text)["input_ids"]]


def test_lower_case_comes_first_where_it_is_asked_for(tmp_path):
    berts.trained("bpe", TEXTS).save_pretrained(tmp_path)
    plain, lower = (
        JsonTokenizer(read_tokenizer(tmp_path, {"model_type": "roberta"}, lowercase=low).content, LENGTH)
        for low in (False, True)
    )
    assert lower(["THE OLD"]).ids == plain(["the old"]).ids
    assert lower(["THE OLD"]).ids != plain(["THE OLD"]).ids


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff\xfe", b'{"model": 3}'])
def test_a_damaged_tokenizer_json_is_refused(tmp_path, damage):
    berts.tokenizer().save_pretrained(tmp_path / "good")
    folder = shutil.copytree(tmp_path / "good", tmp_path / "bad")
    (folder / "tokenizer.json").write_bytes(damage)
    with pytest.raises(CheckpointError):
        read_tokenizer(folder, {"model_type": "bert"})
