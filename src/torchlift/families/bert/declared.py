"""What a model of this family takes and gives: its signature, and what is declared of its inputs and outputs."""

from __future__ import annotations

from typing import Any

from torchlift.declare.answers import Answer, Embedding, Labels, Raw, TokenLabels
from torchlift.declare.inputs import Input, TextInput, TextPart
from torchlift.errors import CheckpointError
from torchlift.families.base import LoadOptions
from torchlift.families.bert.folder import Folder
from torchlift.families.bert.heads import CLASSES, QUESTIONS, SENTENCES, TOKENS, WITHOUT_TYPES, WORDS
from torchlift.families.bert.questions import question_input, span
from torchlift.families.bert.tokenizers import FolderTokenizer
from torchlift.signature import Axis, Dim, Signature, TensorSpec

BATCH, SEQUENCE = "batch", "sequence"

_COUNTED_FROM_PADDING = ("roberta", "mpnet", "xlm-roberta", "camembert")
"""Types of model whose first position has the number behind that of padding, so that tables are longer by two."""

SHORTEST = 4
"""The least size of the sequence axis."""

CHARACTERS = 100_000
"""Characters of a text that are taken. Most are cut off: a network reads some hundred tokens."""


def positions_of(config: Any) -> int:
    """The most tokens that the network takes."""
    counted = config.model_type in _COUNTED_FROM_PADDING
    return int(config.max_position_embeddings) - (int(config.pad_token_id or 0) + 1 if counted else 0)


def signature_of(folder: Folder, config: Any, longest: int, options: LoadOptions, component: str) -> Signature:
    """The inputs and outputs of a network, for texts of up to ``longest`` tokens."""
    head = folder.head
    if longest < SHORTEST:
        raise CheckpointError(f"the network takes {longest} tokens", remedy="Give a model with more positions.")
    most = min(longest, folder.modules.length or longest) if folder.modules else longest
    types = int(getattr(config, "type_vocab_size", 0) or 0)
    bounds = (int(config.vocab_size), 2, types)
    typed = folder.model_type not in WITHOUT_TYPES and types > 0
    inputs = [
        TensorSpec(name, "int64", (BATCH, SEQUENCE), (0, high))
        for name, high in zip(head.inputs[: 3 if typed else 2], bounds, strict=False)
    ]
    axes = (
        options.axis(component, Axis(BATCH, *head.batch)),
        options.axis(component, Axis(SEQUENCE, min(SHORTEST, most), min(head.usual, most), most)),
    )
    outputs = tuple(TensorSpec(name, "float32", _shape(folder, config)) for name in head.outputs)
    return Signature(tuple(inputs), outputs, axes)


def _shape(folder: Folder, config: Any) -> tuple[Dim, ...]:
    match folder.head:
        case head if head is QUESTIONS:
            return (BATCH, SEQUENCE)
        case head if head is CLASSES:
            return (BATCH, config.num_labels)
        case head if head is TOKENS:
            return (BATCH, SEQUENCE, config.num_labels)
        case head if head is WORDS:
            return (BATCH, SEQUENCE, config.vocab_size)
        case head if head is SENTENCES:
            assert folder.modules is not None
            return (BATCH, folder.modules.width(config.hidden_size))
    return (BATCH, SEQUENCE, config.hidden_size)


def inputs_of(folder: Folder, signature: Signature, tokenizer: FolderTokenizer, role: str) -> dict[str, Input]:
    """What each input takes: texts, and what follows from them. ``role`` is that of the tokenizer's asset."""
    ids, *parts = signature.input_names
    follow = dict(zip(parts, (TextPart(ids, "mask"), TextPart(ids, "types")), strict=False))
    if folder.head is QUESTIONS:
        most = signature.axis(SEQUENCE).max
        return {ids: question_input(role, most, tokenizer.longest, tokenizer.content), **follow}
    length = min(signature.axis(SEQUENCE).max, (folder.modules is None and tokenizer.longest) or 1 << 20)
    text = TextInput(role, length, characters=CHARACTERS)
    return {ids: text, **follow}


def answers_of(folder: Folder, config: Any, signature: Signature) -> dict[str, Answer]:
    """What each output says."""
    mask = signature.input_names[1]
    if folder.head is QUESTIONS:
        start, end = signature.output_names
        return {start: span(folder, end, mask), end: Raw(mask=mask)}
    if folder.head is CLASSES:
        return {"logits": _labels(config)}
    if folder.head is SENTENCES:
        assert folder.modules is not None
        return {"embedding": Embedding(normalize=folder.modules.normalize)}
    if folder.head is TOKENS:
        return {"logits": TokenLabels(label_names(config), mask)}
    return {name: Raw(mask=mask) for name in signature.output_names}


def _labels(config: Any) -> Answer:
    """The names of the classes. A network with one class, or of regression, gives numbers."""
    problem = config.problem_type
    if problem == "regression" or (config.num_labels == 1 and problem is None):
        return Raw()
    names = label_names(config)
    several = problem == "multi_label_classification"
    return Labels(names, top=min(5, len(names)), activation="sigmoid" if several else "softmax")


def label_names(config: Any) -> tuple[str, ...]:
    """The names in config.json, by number."""
    names = config.id2label
    return tuple(str(names.get(number, f"LABEL_{number}")) for number in range(config.num_labels))
