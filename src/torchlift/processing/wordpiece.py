"""Text to token ids as the BERT tokenizer of Chinese-CLIP makes them, on every Python string.

It differs from the tokenizers of transformers: special tokens in a text have no meaning, words may have 200 characters,
and lower case is Python's (a final sigma is kept).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from tokenizers.models import WordPiece

from torchlift.errors import InputError
from torchlift.processing.tokens import TextOrPair, Tokens

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"

_AROUND = 2
"""Tokens that are put around a text: [CLS] and [SEP]."""

LONGEST_WORD = 200
"""Characters; a longer word is one [UNK]."""

_IDEOGRAPHS = (
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0x20000, 0x2A6E0),
    range(0x2A700, 0x2CEB0),
    range(0x2F800, 0x2FA20),
)


class WordPieceTokenizer:
    """WordPiece over a BERT vocabulary. Safe to share between threads.

    ``vocabulary`` holds the bytes of vocab.txt: UTF-8, an entry a line; only a line feed ends an entry, since entries
    may contain other line separators. ``context_length`` counts [CLS] and [SEP]. ``lowercase`` also removes accents.

    Raises InputError where the vocabulary is not UTF-8 or lacks a special token.
    """

    def __init__(self, vocabulary: bytes, context_length: int = 52, *, lowercase: bool = True) -> None:
        if context_length < 3:
            raise InputError(
                f"context length {context_length} leaves no room for text",
                remedy="It counts [CLS] and [SEP]: use 3 or more.",
            )
        entries = _read_vocabulary(vocabulary)
        self.context_length = context_length
        self.size = max(entries.values()) + 1
        self._lowercase = lowercase
        self.pad, self._unknown, self._start, self._end = (entries[t] for t in (PAD, UNKNOWN, START, END))
        self._whole = {entry: index for entry, index in entries.items() if len(entry) <= LONGEST_WORD}
        self._wordpiece = WordPiece(
            entries, unk_token=UNKNOWN, max_input_chars_per_word=LONGEST_WORD, continuing_subword_prefix="##"
        )

    def __call__(self, texts: Sequence[TextOrPair]) -> Tokens:
        """Tokenize a batch: [CLS], the first ``context_length - 2`` tokens, [SEP].

        Raises InputError for anything that is not a sequence of strings.
        """
        if isinstance(texts, (str, bytes)):
            raise InputError(f"the texts are one {type(texts).__name__}, not a sequence", remedy="Pass a list: [text].")
        ids: list[list[int]] = []
        truncated: list[bool] = []
        room = self.context_length - _AROUND
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    f"text {position} of the batch is {type(text).__name__}, not str", remedy="Pass strings only."
                )
            tokens = self._tokens(text, room)
            ids.append([self._start, *tokens[:room], self._end])
            truncated.append(len(tokens) > room)
        return Tokens(ids, truncated, [len(row) == _AROUND for row in ids], self.pad)

    def encode(self, texts: Sequence[str], length: int | None = None) -> npt.NDArray[np.int64]:
        """The ids as int64 [N, L], padded on the right with [PAD]; L is ``length``, or that of the longest text."""
        return self(texts).padded(length)

    def _tokens(self, text: str, room: int) -> list[int]:
        """The ids of the text's tokens; more than ``room`` where there are more, but not always all."""
        tokens: list[int] = []
        for word in split_words(text, lowercase=self._lowercase):
            index = self._whole.get(word)
            if index is not None:
                tokens.append(index)
            else:
                tokens += self._pieces_of(word)
            if len(tokens) > room:
                break
        return tokens

    def _pieces_of(self, word: str) -> list[int]:
        try:
            return [token.id for token in self._wordpiece.tokenize(word)]
        except UnicodeEncodeError:  # a lone surrogate: no UTF-8 vocabulary has one
            return [self._unknown]


def split_words(text: str, *, lowercase: bool = True) -> list[str]:
    """Clean a text and split it into the words that WordPiece works on.

    Each ideograph and each punctuation character is a word of its own. The steps are those of BERT's basic tokenizer:
    Devlin et al., https://github.com/google-research/bert, tokenization.py; ``lowercase`` as their do_lower_case.
    """
    clean = text.translate(_CLEAN)
    if not lowercase:
        return clean.translate(_PARTED).split()
    return unicodedata.normalize("NFD", clean.lower()).translate(_SPLIT).split()


def _read_vocabulary(vocabulary: bytes) -> dict[str, int]:
    try:
        lines = vocabulary.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the vocabulary is not UTF-8: byte {error.start} is 0x{vocabulary[error.start]:02x}",
            remedy="Give the vocab.txt that came with the model.",
        ) from error
    entries = {line.strip(): index for index, line in enumerate(lines)}
    missing = [token for token in (PAD, UNKNOWN, START, END) if token not in entries]
    if missing:
        raise InputError(
            f"the vocabulary of {len(lines):,} entries has no {', '.join(missing)}",
            remedy="Give the vocab.txt of a BERT model, an entry a line.",
        )
    return entries


def _cleaned(char: str) -> str:
    """What cleaning makes of a character: nothing, a space, the character, or an ideograph between spaces."""
    if char in "\t\n\r":
        return " "
    category = unicodedata.category(char)
    if category in ("Cc", "Cf") or char == "\ufffd":
        return ""
    if category == "Zs":
        return " "
    return f" {char} " if any(ord(char) in block for block in _IDEOGRAPHS) else char


def _separated(char: str) -> str:
    """What splitting makes of a decomposed character: nothing for a mark, punctuation between spaces."""
    return "" if unicodedata.category(char) == "Mn" else _parted(char)


def _parted(char: str) -> str:
    """A punctuation character between spaces; any other as it is."""
    punctuation = unicodedata.category(char)[0] == "P" or ("!" <= char <= "~" and not char.isalnum())
    return f" {char} " if punctuation else char


class _Table(dict[int, str]):
    """A table for ``str.translate`` that computes an entry at its first use.

    Unassigned and private characters and surrogates are not stored: a million of them would only fill the memory.
    """

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        char = chr(code)
        result = self._rule(char)
        if unicodedata.category(char) not in ("Cn", "Co", "Cs"):
            self[code] = result
        return result


_CLEAN = _Table(_cleaned)
_SPLIT = _Table(_separated)
_PARTED = _Table(_parted)
