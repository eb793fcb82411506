"""What a tokenizer makes of texts, and which tokenizer a file is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from torchlift.declare.inputs import TextInput
from torchlift.errors import InputError

TextOrPair = str | tuple[str, str]
"""A text, or two that are read together, such as a premise and what may follow from it."""


@dataclass(frozen=True)
class Tokens:
    """The ids of some texts, those that the tokenizer puts around a text included, unpadded.

    ``truncated[i]`` tells whether text ``i`` had more tokens than are taken, ``empty[i]`` whether it had none of its
    own. ``pad`` is the id of padding. ``types`` are the numbers of the texts of a pair; None where all are 0.
    """

    ids: list[list[int]]
    truncated: list[bool]
    empty: list[bool]
    pad: int = 0
    types: list[list[int]] | None = None

    @property
    def lengths(self) -> list[int]:
        """The number of ids of each text."""
        return [len(row) for row in self.ids]

    def padded(self, length: int | None = None) -> npt.NDArray[np.int64]:
        """The ids as int64 [N, L], padded on the right; L is ``length``, or that of the longest text.

        Raises InputError where a text does not fit into ``length``.
        """
        longest = max(self.lengths, default=0)
        if length is None:
            length = longest
        if longest > length:
            raise InputError(
                f"text {self.lengths.index(longest)} has {longest} tokens, the length asked for is {length}",
                remedy=f"Ask for a length of at least {longest}, or make the tokenizer with context_length={length}.",
            )
        array = np.full((len(self.ids), length), self.pad, dtype=np.int64)
        for row, ids in zip(array, self.ids, strict=True):
            row[: len(ids)] = ids
        return array


class Tokenizer(Protocol):
    """Texts to tokens. ``size`` is one more than the greatest id, ``pad`` the id of padding. Threads may share it."""

    size: int
    pad: int

    def __call__(self, texts: Sequence[TextOrPair]) -> Tokens:
        """Tokenize some texts, each cut to the length that was declared. Raises InputError for what is no string."""


@runtime_checkable
class Placing(Protocol):
    """A tokenizer that also tells where tokens are in a text."""

    def places(self, texts: Sequence[str]) -> list[list[tuple[int, int] | None]]:
        """Of each text where each token begins and ends, in characters; None for one that is put around the text."""


def open_tokenizer(declared: TextInput, file: str, content: bytes) -> Tokenizer:
    """The tokenizer of a text input, from the ``content`` of the asset called ``file``.

    A file whose name ends in .json is one of the tokenizers library, any other the vocab.txt of a BERT. Raises
    InputError for a file that cannot be read.
    """
    if file.endswith(".json"):
        from torchlift.processing.tokenizer_json import JsonTokenizer

        return JsonTokenizer(content, declared.length)
    from torchlift.processing.wordpiece import WordPieceTokenizer

    return WordPieceTokenizer(content, declared.length, lowercase=declared.lowercase)
