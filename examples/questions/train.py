"""Trains a small BERT that answers questions about paragraphs of facts, on a CPU, and saves it as a transformers folder
with the questions that are held out beside it, in SQuAD's JSON.

    python examples/questions/train.py OUTPUT_FOLDER [--steps N] [--seed S] [--unanswerable]
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from facts import ELSE, FACTS, WORDS, Paragraph, paragraph, write_squad
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedTokenizerFast

LENGTH = 128
"""The most tokens that the model reads: a question and a window of the text."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Plan:
    """How large the model is, how long to train and how fast to learn."""

    steps: int = 800
    batch: int = 32
    learning_rate: float = 4e-3
    warm_up: int = 100
    width: int = 64
    layers: int = 2
    heads: int = 4
    unanswerable: bool = False
    seed: int = 0


# The data -------------------------------------------------------------------------------------------------------------


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer like BERT's. Its vocabulary has the words that the paragraphs are made of, two digits each
    of years, and all their characters, so that it can write other words too.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    lines = [word for words in WORDS.values() for values in words.values() for word in values]
    lines += [line for facts in FACTS.values() for fact in facts for line in (fact.sentence, fact.question)]
    lines += [line for sentences in ELSE.values() for line in sentences]
    words = {word for line in lines for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line))}
    digits = {f"{number:02}" for number in range(100)}
    characters = {character for word in (*words, *digits) for character in word}
    inside = {f"##{part}" for part in (*digits, *(c for c in characters if c.isalnum()))}
    entries = [*SPECIAL, *sorted(words | digits | characters | inside)]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    cls, sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **names)


@dataclass(frozen=True)
class Rows:
    """Questions as the model takes them, int64 [rows, tokens], and the tokens where answers begin and end, int64
    [rows]; 0 where there is none.
    """

    ids: Tensor
    mask: Tensor
    types: Tensor
    start: Tensor
    end: Tensor


def rows_of(tokenizer: PreTrainedTokenizerFast, paragraphs: Sequence[Paragraph]) -> Rows:
    """All questions of some paragraphs; a text that is too long is cut, and what lies beyond has no answer."""
    pairs = [(asked, found.context) for found in paragraphs for asked in found.asked]
    coded = tokenizer(
        [asked.question for asked, _ in pairs],
        [context for _, context in pairs],
        truncation="only_second",
        max_length=LENGTH,
        padding=True,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    start, end = torch.zeros(2, len(pairs), dtype=torch.int64)
    for row, (asked, _) in enumerate(pairs):
        if asked.start >= 0:
            first = coded.char_to_token(row, asked.start, 1)
            last = coded.char_to_token(row, asked.start + len(asked.answer) - 1, 1)
            if first is not None and last is not None:
                start[row], end[row] = first, last
    return Rows(coded["input_ids"], coded["attention_mask"], coded["token_type_ids"], start, end)


def paragraphs_of(rng: random.Random, count: int, unanswerable: bool) -> list[Paragraph]:
    """Paragraphs of various lengths."""
    return [paragraph(rng, rng.randint(4, 9 - unanswerable), unanswerable) for _ in range(count)]


# Training -------------------------------------------------------------------------------------------------------------


def make_model(plan: Plan, vocabulary: int) -> BertForQuestionAnswering:
    """A BERT with random weights. At first its tokens look for others like them, and positions are waves, so that it
    finds sooner where the text speaks of what the question names, and what stands beside it.
    """
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        intermediate_size=2 * plan.width,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
        no_answer=plan.unanswerable,
    )
    model = BertForQuestionAnswering(config)
    waves = torch.arange(LENGTH)[:, None] * torch.exp(-math.log(1000) * torch.arange(0, plan.width, 2) / plan.width)
    with torch.no_grad():
        model.bert.embeddings.position_embeddings.weight.copy_(
            0.07 * torch.stack([waves.sin(), waves.cos()], 2).flatten(1)
        )
        for layer in model.bert.encoder.layer:
            attention = layer.attention.self
            attention.key.weight.copy_(attention.query.weight)
    return model


def rate(step: int, plan: Plan) -> float:
    """The share of the learning rate at a step, counted from 0: up in a line, then down in half a cosine."""
    if step < plan.warm_up:
        return (step + 1) / plan.warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - plan.warm_up) / (plan.steps - plan.warm_up))


def train(
    plan: Plan, tokenizer: PreTrainedTokenizerFast, held_out: Rows, every_s: float = 10.0
) -> BertForQuestionAnswering:
    """Train on paragraphs that are made for each step, and print the loss and what share is right."""
    torch.manual_seed(plan.seed)
    rng = random.Random(plan.seed)
    model = make_model(plan, len(tokenizer)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, plan))
    losses: list[float] = []
    began = last = time.perf_counter()
    for step in range(1, plan.steps + 1):
        found: list[Paragraph] = []
        while sum(len(p.asked) for p in found) < plan.batch:
            found += paragraphs_of(rng, 1, plan.unanswerable)
        rows = rows_of(tokenizer, found)
        output = model(rows.ids, attention_mask=rows.mask, token_type_ids=rows.types)
        loss = F.cross_entropy(output.start_logits, rows.start) + F.cross_entropy(output.end_logits, rows.end)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if time.perf_counter() - last > every_s:
            last = time.perf_counter()
            right = f"{exact(model, held_out):.1%}"
            print(f"{last - began:4.0f} s  step {step}/{plan.steps}  loss {np.mean(losses[-20:]):.3f}  right {right}")
    return model.eval()


@torch.no_grad()
def exact(model: BertForQuestionAnswering, rows: Rows) -> float:
    """The share of questions whose answer begins and ends at the right tokens; the model stays in its mode."""
    training = model.training
    model.eval()
    output = model(rows.ids, attention_mask=rows.mask, token_type_ids=rows.types)
    right = (output.start_logits.argmax(1) == rows.start) & (output.end_logits.argmax(1) == rows.end)
    model.train(training)
    return float(right.float().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    plan = Plan()
    parser = argparse.ArgumentParser(description="Train a small BERT that answers questions about paragraphs.")
    parser.add_argument("output", type=Path, help="folder for model/, train.json and dev.json")
    parser.add_argument("--steps", type=int, default=plan.steps, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=plan.seed, help="default: %(default)s")
    parser.add_argument("--unanswerable", action="store_true", help="half of the questions have no answer: SQuAD v2.0")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # more hardly speed up so small a model
    warm_up = min(plan.warm_up, options.steps // 2)
    plan = replace(plan, steps=options.steps, warm_up=warm_up, seed=options.seed, unanswerable=options.unanswerable)

    options.output.mkdir(parents=True, exist_ok=True)
    rng = random.Random("held out")
    held_out = paragraphs_of(rng, 60, plan.unanswerable)
    write_squad(options.output / "dev.json", held_out)
    write_squad(options.output / "train.json", paragraphs_of(rng, 40, plan.unanswerable))
    tokenizer = make_tokenizer()
    rows = rows_of(tokenizer, held_out)
    model = train(plan, tokenizer, rows)
    model.save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")
    weights = sum(p.numel() for p in model.parameters())
    print(f"{options.output / 'model'}: {weights:,} weights; right on dev.json: {exact(model, rows):.1%}")


if __name__ == "__main__":
    main()
