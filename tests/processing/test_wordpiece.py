from __future__ import annotations

import importlib.util
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchlift.errors import InputError
from torchlift.processing.wordpiece import WordPieceTokenizer, split_words

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
PIECES = [
    *"皮卡丘中国鱼的一", "豈", "㐀", "\U00020000", "\U0002b820", "\u2028",
    *"abcdeginosuxαςσ0189éı㎏", *"[].,!?'\"$^`~-。，！“”·#",
    "play", "sep", "unk", "un", "##aff", "##able", "##ing", "##play", "##ed",
    *(f"##{c}" for c in "abcdeginosuxαςσ0189ı中"), "##\u2028", "㏕", "ᄀ", "##ᅡ",
    "a" * 201, "x" * 200,
]  # fmt: skip
VOCABULARY = "".join(f"{entry}\n" for entry in [*SPECIAL, *PIECES])
IDS = {entry: index for index, entry in enumerate([*SPECIAL, *PIECES])}
PAD, UNK, CLS, SEP = range(4)


def slow_tokens(text: str, ids: dict[str, int]) -> list[int]:
    """The published algorithm, a character at a time."""
    cleaned = ""
    for char in text:
        kind = unicodedata.category(char)
        if char in " \t\n\r" or kind == "Zs":
            cleaned += " "
        elif char not in "\0\ufffd" and kind not in ("Cc", "Cf"):
            cleaned += f" {char} " if is_ideograph(ord(char)) else char
    result = []
    for chunk in cleaned.split():
        word = ""
        for char in unicodedata.normalize("NFD", chunk.lower()):
            if unicodedata.category(char) == "Mn":
                continue
            if is_punctuation(char):
                result += slow_pieces(word, ids) + slow_pieces(char, ids)
                word = ""
            else:
                word += char
        result += slow_pieces(word, ids)
    return result


def is_ideograph(code: int) -> bool:
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2B73F
        or 0x2B740 <= code <= 0x2B81F
        or 0x2B820 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def is_punctuation(char: str) -> bool:
    return char in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~" or unicodedata.category(char).startswith("P")


def slow_pieces(word: str, ids: dict[str, int]) -> list[int]:
    if len(word) > 200:
        return [ids["[UNK]"]]
    pieces = []
    rest = word
    while rest:
        prefix = "" if len(rest) == len(word) else "##"
        for length in range(len(rest), 0, -1):
            if prefix + rest[:length] in ids:
                pieces.append(ids[prefix + rest[:length]])
                rest = rest[length:]
                break
        else:
            return [ids["[UNK]"]]
    return pieces


@pytest.fixture(scope="module")
def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer(VOCABULARY.encode(), context_length=100_000)


ALL = WordPieceTokenizer(VOCABULARY.encode(), context_length=100_000)

ANY = st.characters(codec=None, categories=None)
TRICKY = st.sampled_from(
    "ΣσςİıIK\u212aÅ\u0345\u0301\u0307\u0130 \t\n\r\x0b\x0c\x1c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff"
    "\0\ufffd\xad\u180e\ue000\uf8ff\U000f0000\U0010ffff\ud800\udbff\udc00\udfff豈㐀䶿一鿿\U00020000\U0002a6df"
    "\U0002a6e0\U0002a700\U0002ceaf\U0002ceb0\U0002f800\U0002fa1f\U0002fa20각가'.:·’`$^|~¡¿‘“”。\u037e\u1fef\u0387"
)
WORDS = st.sampled_from(
    ["[SEP]", "[CLS]", "playing", "unaffable", "皮卡丘", "##s", "#", "Ünaffable", "ΑΣ", "ΑΣ.", "ΑΣΑ"]
)
LONG = st.builds(lambda char, count: char * count, st.sampled_from("axz中ΣéI\u0301"), st.integers(198, 202))
TEXTS = st.lists(
    st.one_of(ANY, TRICKY, TRICKY, st.sampled_from("abcdeginosux"), st.sampled_from(PIECES), WORDS, LONG), max_size=30
).map("".join)


@settings(max_examples=600, deadline=None)
@given(TEXTS)
@example("")
@example("ΑΣ ΑΣΑ Σ ΑΣ. ΑΣ中")
@example("a" * 199 + " " + "a" * 200 + " " + "a" * 201 + " " + "x" * 200 + "x")
@example("e\u0301" * 200 + " " + "e\u0301" * 201)
@example("a\u2028b \u2028 a\u0085b a\u001cb")
def test_equals_the_published_algorithm_on_any_string(text: str) -> None:
    assert ALL([text]).ids == [[CLS, *slow_tokens(text, IDS), SEP]]


def test_every_code_point_alone_and_within_a_word(tokenizer: WordPieceTokenizer) -> None:
    codes = [*range(0x3400), *range(0x3400, 0x110000, 61), *range(0xD7A0, 0xE010), *range(0xF8F0, 0x10000)]
    texts = [text for code in codes for text in (chr(code), f"a{chr(code)}b")]
    differing = [
        text
        for text, ids in zip(texts, tokenizer(texts).ids, strict=True)
        if ids != [CLS, *slow_tokens(text, IDS), SEP]
    ]
    assert differing == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("皮卡丘", ["皮", "卡", "丘"]),
        ("a\0b\ufffdc\u200bd\x85e", ["abcde"]),
        ("a\tb\nc\rd\u3000e\xa0f", ["a", "b", "c", "d", "e", "f"]),
        ("a\u2028b", ["a", "b"]),
        ("a中b", ["a", "中", "b"]),
        ("\U0002a6df\U0002a6e0\U0002b820", ["\U0002a6df", "\U0002a6e0", "\U0002b820"]),
        ("Éa e\u0301A", ["ea", "ea"]),
        ("ΑΣ ΑΣΑ", ["ας", "ασα"]),
        ("İIı", ["iiı"]),
        ("[SEP]", ["[", "sep", "]"]),
        ("a$b^c。d", ["a", "$", "b", "^", "c", "。", "d"]),
        ("\u0301", []),
        ("각", ["\u1100\u1161\u11a8"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("[SEP]", ["[", "sep", "]"]),
        ("\ue000", ["[UNK]"]),
        ("ΑΣ", ["α", "##ς"]),
        ("unaffable", ["un", "##aff", "##able"]),
        ("unaffablez", ["[UNK]"]),
        ("a" * 101, ["a"] + ["##a"] * 100),
        ("a" * 200, ["a"] + ["##a"] * 199),
        ("a" * 201, ["[UNK]"]),
        ("x" * 200, ["x" * 200]),
        ("a\ud800", ["[UNK]"]),
        ("\udfff 中", ["[UNK]", "中"]),
    ],
)
def test_pieces(tokenizer: WordPieceTokenizer, text: str, pieces: list[str]) -> None:
    assert tokenizer([text]).ids == [[CLS, *(IDS[p] for p in pieces), SEP]]


def test_truncates_to_the_context_and_says_so() -> None:
    tokens = WordPieceTokenizer(VOCABULARY.encode(), context_length=5)(["中国鱼", "中国鱼的", "", "unaffables"])
    assert tokens.truncated == [False, True, False, True]
    assert tokens.lengths == [5, 5, 2, 5]
    assert tokens.ids[1] == [CLS, IDS["中"], IDS["国"], IDS["鱼"], SEP]
    assert tokens.ids[3] == [CLS, IDS["un"], IDS["##aff"], IDS["##able"], SEP]


def test_a_long_text_is_read_only_as_far_as_needed() -> None:
    assert WordPieceTokenizer(VOCABULARY.encode(), 52)(["中" * 1_000_000]).lengths == [52]


def test_encode_pads_to_the_longest_or_to_the_length(tokenizer: WordPieceTokenizer) -> None:
    batch = tokenizer.encode(["中", "中国鱼"])
    assert batch.dtype == np.int64
    np.testing.assert_array_equal(batch, [[CLS, IDS["中"], SEP, PAD, PAD], [CLS, IDS["中"], IDS["国"], IDS["鱼"], SEP]])
    fixed = tokenizer.encode(["中", "中国鱼"], 52)
    assert fixed.shape == (2, 52)
    np.testing.assert_array_equal(fixed[:, :5], batch)
    assert not fixed[:, 5:].any()
    assert tokenizer.encode([], 52).shape == (0, 52)
    assert tokenizer.encode([]).shape == (0, 0)


def test_pads_with_the_vocabularys_own_pad() -> None:
    tokenizer = WordPieceTokenizer(b"a\n[UNK]\n[CLS]\n[SEP]\n[PAD]\n")
    np.testing.assert_array_equal(tokenizer.encode(["a"], 5), [[2, 0, 3, 4, 4]])


@pytest.mark.parametrize("ending", ["\n", ""])
def test_only_a_line_feed_ends_an_entry(ending: str) -> None:
    tokenizer = WordPieceTokenizer(("\n".join([*SPECIAL, "\u2028", "##\u2028", "\x0b", "a"]) + ending).encode())
    assert tokenizer(["a"]).ids == [[CLS, 7, SEP]]


def test_carriage_returns_are_not_part_of_entries() -> None:
    tokenizer = WordPieceTokenizer(VOCABULARY.replace("\n", "\r\n").encode())
    assert tokenizer(["unaffable 中"]).ids == ALL(["unaffable 中"]).ids


def test_of_equal_entries_the_last_counts() -> None:
    tokenizer = WordPieceTokenizer(f"{VOCABULARY}中\n".encode())
    assert tokenizer(["中"]).ids == [[CLS, len(IDS), SEP]]


def test_is_safe_to_share_between_threads() -> None:
    texts = [chr(code) + "unaffables" for code in range(0x4E00, 0x5600)]
    expected = ALL(texts).ids
    shared = WordPieceTokenizer(VOCABULARY.encode())
    results: list[list[list[int]]] = []
    threads = [threading.Thread(target=lambda: results.append(shared(texts).ids)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


@pytest.mark.parametrize("token", SPECIAL)
def test_a_vocabulary_without_a_special_token_is_refused(token: str) -> None:
    lines = [entry for entry in [*SPECIAL, "a"] if entry != token]
    with pytest.raises(InputError, match=rf"vocabulary of 4 entries has no \[{token[1:-1]}\]"):
        WordPieceTokenizer("\n".join(lines).encode())


def test_an_empty_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match=r"has no \[PAD\], \[UNK\], \[CLS\], \[SEP\]"):
        WordPieceTokenizer(b"")


def test_a_vocabulary_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(InputError, match="not UTF-8: byte 6 is 0xff"):
        WordPieceTokenizer(b"[PAD]\n\xff\n")


def test_a_context_without_room_is_refused() -> None:
    with pytest.raises(InputError, match="context length 2 leaves no room"):
        WordPieceTokenizer(VOCABULARY.encode(), 2)


def test_a_length_that_is_too_short_is_refused(tokenizer: WordPieceTokenizer) -> None:
    with pytest.raises(InputError, match="text 1 has 5 tokens, the length asked for is 4"):
        tokenizer.encode(["中", "中国鱼"], 4)


@pytest.mark.parametrize(("texts", "kind"), [("中国", "str"), (b"a", "bytes")])
def test_one_text_in_place_of_a_list_is_refused(tokenizer: WordPieceTokenizer, texts: object, kind: str) -> None:
    with pytest.raises(InputError, match=f"the texts are one {kind}, not a sequence"):
        tokenizer(texts)  # type: ignore[arg-type]


def test_what_is_no_text_is_refused(tokenizer: WordPieceTokenizer) -> None:
    with pytest.raises(InputError, match="text 1 of the batch is int, not str"):
        tokenizer(["a", 3])  # type: ignore[list-item]


def _reference_vocabulary() -> Path | None:
    spec = importlib.util.find_spec("cn_clip")
    file = Path(spec.origin).parent / "clip" / "vocab.txt" if spec and spec.origin else None
    return file if file and file.is_file() else None


@pytest.mark.skipif(_reference_vocabulary() is None, reason="cn_clip is not installed")
def test_the_released_vocabulary() -> None:
    file = _reference_vocabulary()
    assert file is not None
    vocabulary = file.read_bytes()
    tokenizer = WordPieceTokenizer(vocabulary, 52)
    np.testing.assert_array_equal(tokenizer.encode(["皮卡丘"], 6), [[101, 4649, 1305, 687, 102, 0]])
    ids = {entry.strip(): index for index, entry in enumerate(vocabulary.decode().split("\n")[:-1])}
    assert len(vocabulary.decode().split("\n")) == 21129
    for text in ["一只Playing的猫, 2023年！", "iPhone13 Pro Max 苹果", "ΟΔΥΣΣΕΥΣ“引号”", "[SEP] Ünïcödé \U0001f600"]:
        assert tokenizer([text]).ids == [[101, *slow_tokens(text, ids)[:50], 102]]
