"""Tokenizers that are trained here, a bundle without a graph that answers questions, and its session in NumPy."""

import functools
import json

import numpy as np
from colour_models import bundle_of
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from torchlift.backends import Session
from torchlift.declare.answers import Raw, Span
from torchlift.declare.inputs import QuestionInput, TextPart
from torchlift.signature import Axis, Signature, TensorSpec

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LINES = [
    "Ada wrote the first program in 1815 .",
    "the river runs by the mill , and Ada wrote of the river ?",
    "谁写了它 ？ 艾达写了这本书 。",
    "Élan é-ö ä ü !",
] * 4
TRAINED = ("wordpiece", "bytes", "unigram")


@functools.cache
def trained(kind):
    """A tokenizer.json of a kind: WordPiece as BERT has it, byte-level BPE as RoBERTa, Unigram as XLM-R."""
    around = [("[CLS]", 2), ("[SEP]", 3)]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
        tokenizer.train_from_iterator(LINES, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
        )
    elif kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(LINES, trainer)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        )
        tokenizer.train_from_iterator(LINES, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            "[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=around
        )
    return tokenizer.to_str()


WORDS = ["who", "where", "wrote", "lives", "ada", "alan", "paris", "london", "the", "in", ".", "?", "and", "filler"]
ENTRIES = [*SPECIAL, *WORDS, *"写住谁哪里了在。？"]
LENGTH, OVERLAP, ASKED = 16, 4, 6
SIGNATURE = Signature(
    tuple(
        TensorSpec(name, "int64", ("batch", "sequence"), (0, high))
        for name, high in (("input_ids", len(ENTRIES)), ("input_mask", 2), ("segment_ids", 2))
    ),
    tuple(TensorSpec(name, "float32", ("batch", "sequence")) for name in ("start", "end")),
    (Axis("batch", 1, 4, 8), Axis("sequence", 4, 12, LENGTH)),
)
SURE = 8.0


def words_tokenizer():
    """A tokenizer.json whose tokens are the ENTRIES: words, and ideographs by themselves."""
    tokenizer = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(ENTRIES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str()


def reads(input_ids, input_mask, segment_ids):
    """A network that knows one thing: "who" is answered by the word before "wrote", "where" by that behind "in". Where
    there is no such word, the first token scores highest.
    """
    place = {word: ENTRIES.index(word) for word in ("who", "where", "wrote", "in")}
    text = (segment_ids == 1) & (input_mask == 1)
    before = np.roll(input_ids, -1, axis=1) == place["wrote"]
    behind = np.roll(input_ids, 1, axis=1) == place["in"]
    who = (input_ids == place["who"]).any(axis=1, keepdims=True)
    where = (input_ids == place["where"]).any(axis=1, keepdims=True)
    there = text & ((before & who) | (behind & where))
    scores = np.where(there, SURE, 0.0) - 0.01 * np.arange(input_ids.shape[1])
    scores[:, 0] = SURE / 2
    scores[input_mask == 0] = 50.0  # what is at padding must not count
    return scores, scores.copy()


class Reader(Session):
    """A session that is a function of ids, mask and types; keeps the shapes that it was given."""

    def __init__(self, function=reads, signature=SIGNATURE):
        super().__init__(signature, "numpy")
        self.function = function
        self.shapes = []

    def _run(self, feeds):
        self.shapes.append(feeds["input_ids"].shape)
        start, end = self.function(*(feeds[name] for name in self.signature.input_names))
        return {"start": np.asarray(start, np.float32), "end": np.asarray(end, np.float32)}

    def _prepare(self, feeds):
        return lambda: None


def question_bundle(folder, span=None, asked=None, signature=SIGNATURE, tokenizer=None):
    """A bundle without a graph that answers questions."""
    inputs = {
        "input_ids": asked or QuestionInput("tokenizer.json", LENGTH, OVERLAP, ASKED),
        "input_mask": TextPart("input_ids"),
        "segment_ids": TextPart("input_ids", "types"),
    }
    answers = {"start": span or Span("end", mask="input_mask"), "end": Raw(mask="input_mask")}
    assets = {"tokenizer.json": (tokenizer or words_tokenizer()).encode()}
    return bundle_of(folder, "question-answering", {}, {"model": signature}, {"model": (inputs, answers)}, assets)


def squad(paragraphs, version="1.1"):
    """SQuAD's JSON: paragraphs are (context, [(id, question, [answers]), ...])."""
    found = []
    for context, asked in paragraphs:
        questions = []
        for number, question, answers in asked:
            texts = [{"text": text, "answer_start": max(0, context.find(text))} for text in answers]
            record = {"id": number, "question": question, "answers": texts}
            questions.append(record if version == "1.1" else {**record, "is_impossible": not texts})
        found.append({"context": context, "qas": questions})
    return json.dumps({"version": version, "data": [{"title": "t", "paragraphs": found}]}, ensure_ascii=False)
