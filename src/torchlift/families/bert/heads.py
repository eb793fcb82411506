"""What the networks of this family are for: the class that builds each, and the names of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchlift.errors import CheckpointError

WITHOUT_TYPES = ("roberta", "distilbert", "mpnet", "xlm-roberta", "camembert")
"""Types of model that do not tell the texts of a pair apart."""


@dataclass(frozen=True)
class Head:
    """What a network is for.

    ``suffix`` is how the names of transformers' classes end, and ``auto`` the auto class that builds them. ``inputs``
    are the names of ids, mask and types, ``outputs`` those of what the class returns. ``batch`` is the range of the
    batch axis where none is asked for: as one answer has a score for each word, few are made at once.
    """

    name: str
    suffix: str
    auto: str
    outputs: tuple[str, ...]
    inputs: tuple[str, str, str] = ("input_ids", "attention_mask", "token_type_ids")
    pipeline: str = "tensors"
    batch: tuple[int, int, int] = (1, 8, 16)
    usual: int = 64


ENCODER = Head("encoder", "", "AutoModel", ("last_hidden_state",))
SENTENCES = Head("sentences", "", "AutoModel", ("embedding",), pipeline="text-encoder")
QUESTIONS = Head(
    "question-answering",
    "ForQuestionAnswering",
    "AutoModelForQuestionAnswering",
    ("start", "end"),
    ("input_ids", "input_mask", "segment_ids"),
    "question-answering",
    usual=128,
)
CLASSES = Head("text-classification", "ForSequenceClassification", "AutoModelForSequenceClassification", ("logits",))
TOKENS = Head("token-classification", "ForTokenClassification", "AutoModelForTokenClassification", ("logits",))
WORDS = Head("masked-words", "ForMaskedLM", "AutoModelForMaskedLM", ("logits",), batch=(1, 1, 2))

HEADS = (QUESTIONS, CLASSES, TOKENS, WORDS, ENCODER)


def head_of(config: Mapping[str, Any], embeds: bool, expected: str) -> Head:
    """What a model is for, by the ``architectures`` of its config.json. ``embeds``: sentence-transformers saved it, so
    that the head counts that it puts on an encoder.

    Raises CheckpointError for a head that is not known.
    """
    if embeds:
        return SENTENCES
    named = config.get("architectures") or [""]
    name = str(named[0] if isinstance(named, list) else named)
    for head in HEADS[:-1]:
        if name.endswith(head.suffix):
            return head
    if "For" in name or "WithLMHead" in name:
        raise CheckpointError(f"config.json names the architecture {name}, which is not known here", remedy=expected)
    return ENCODER
