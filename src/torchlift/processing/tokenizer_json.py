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
        self._tokenizer = read_tokenizer(content)
        around = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if length <= around:
            raise InputError(
                f"the length {length} leaves no room for text",
                remedy=f"It counts the {around} tokens around a text: use {around + 1} or more.",
            )
        self._tokenizer.enable_truncation(length)
        self.pad, self.size = pad_of(self._tokenizer), size_of(self._tokenizer)
        self._tokenizer.no_padding()

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
                require_unicode(part, f"text {position}")
        return self._tokenizer.encode_batch(list(texts))


def read_tokenizer(content: bytes) -> tokenizers.Tokenizer:
    """The tokenizer in a file. Raises InputError for one that the library cannot read."""
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        tokenizer.num_special_tokens_to_add(is_pair=False)
    except BaseException as error:  # the library raises Exception itself, and PanicException, which is none
        if isinstance(error, KeyboardInterrupt):
            raise
        raise InputError(
            f"the tokenizer.json cannot be read: {error}", remedy="Give the tokenizer.json that came with the model."
        ) from error
    return tokenizer


def pad_of(tokenizer: tokenizers.Tokenizer) -> int:
    """The id of padding: as the file states it, else that of the token that is usually called so, else 0."""
    padding = tokenizer.padding
    named = (tokenizer.token_to_id(token) for token in _PADDING)
    return int(padding["pad_id"]) if padding else next((id_ for id_ in named if id_ is not None), 0)


def size_of(tokenizer: tokenizers.Tokenizer) -> int:
    """One more than the greatest id."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def require_unicode(text: str, said: str) -> None:
    """Raise InputError, which calls the text ``said``, for what is no string, and for one that is no Unicode."""
    if not isinstance(text, str):
        raise InputError(f"{said} is {type(text).__name__}, not str", remedy="Pass strings only.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{said} has a lone surrogate, which is no character", remedy="Decode it as UTF-8 first."
        ) from error
