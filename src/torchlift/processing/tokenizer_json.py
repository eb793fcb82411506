"""Text to token ids by a tokenizer.json, as the tokenizers library and transformers make them."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers

from torchlift.errors import InputError
from torchlift.processing.tokens import TextOrPair, Tokens

_PADDING = ("[PAD]", "<pad>")
"""How tokenizers call the token of padding where their file states no padding."""


class JsonTokenizer:
    """A tokenizer.json whose texts are cut to ``length`` tokens. Safe to share between threads.

    Special tokens are put around each text as the file says. Raises InputError for a file that the library cannot read,
    and for a ``length`` that leaves no room for a text.
    """

    def __init__(self, content: bytes, length: int) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
            around = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        except BaseException as error:  # the library raises Exception itself, and PanicException, which is none
            if isinstance(error, KeyboardInterrupt):
                raise
            raise InputError(
                f"the tokenizer.json cannot be read: {error}",
                remedy="Give the tokenizer.json that came with the model.",
            ) from error
        if length <= around:
            raise InputError(
                f"the length {length} leaves no room for text",
                remedy=f"It counts the {around} tokens around a text: use {around + 1} or more.",
            )
        padding = self._tokenizer.padding
        named = (self._tokenizer.token_to_id(token) for token in _PADDING)
        self.pad = int(padding["pad_id"]) if padding else next((id_ for id_ in named if id_ is not None), 0)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)
        self.size = max(self._tokenizer.get_vocab().values(), default=-1) + 1

    def __call__(self, texts: Sequence[TextOrPair]) -> Tokens:
        """Tokenize some texts, or pairs of texts: of a pair that is too long the longer one is cut.

        Raises InputError for what is no string, and for one that is no Unicode.
        """
        found = self._encoded(texts)
        return Tokens(
            ids=[encoding.ids for encoding in found],
            truncated=[bool(encoding.overflowing) for encoding in found],
            empty=[all(encoding.special_tokens_mask) for encoding in found],
            pad=self.pad,
            types=[encoding.type_ids for encoding in found],
        )

    def places(self, texts: Sequence[str]) -> list[list[tuple[int, int] | None]]:
        """Of each text where each token begins and ends in it, in characters; None for a token that is put around it.

        The tokens are those that a call gives. Raises InputError as a call does.
        """
        return [
            [None if special else place for place, special in zip(e.offsets, e.special_tokens_mask, strict=True)]
            for e in self._encoded(texts)
        ]

    def _encoded(self, texts: Sequence[TextOrPair]) -> list[tokenizers.Encoding]:
        for position, text in enumerate(texts):
            for part in text if isinstance(text, tuple) and len(text) == 2 else (text,):
                _check(position, part)
        return self._tokenizer.encode_batch(list(texts))


def _check(position: int, text: object) -> None:
    if not isinstance(text, str):
        raise InputError(f"text {position} is {type(text).__name__}, not str", remedy="Pass strings only.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text {position} has a lone surrogate, which is no character", remedy="Decode it as UTF-8 first."
        ) from error
