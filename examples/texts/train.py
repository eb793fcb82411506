"""Trains a small BERT that tells praise, complaints and questions apart, on a CPU, and saves it as transformers does.

    python examples/texts/train.py OUTPUT_FOLDER [--steps N] [--seed S]

Beside the folder ``model`` lie ``train.tsv`` and ``test.tsv``, with a text and its label a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from messages import LABELS, messages, write_table

STEPS, BATCH, LEARNING_RATE = 400, 64, 3e-3
VOCABULARY = 400
"""Entries of the vocabulary. It has pieces of words, too."""


def tokenizer_of(texts: Sequence[str]) -> BertTokenizer:
    """A WordPiece tokenizer that is trained on the texts."""
    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False)
    return BertTokenizer(vocab=trained.get_vocab(), model_max_length=64)


def train(rows: Sequence[tuple[str, str]], tokenizer: BertTokenizer, steps: int) -> BertForSequenceClassification:
    """Train a BERT of 0.1 million weights on texts with labels."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.12,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
    )
    model = BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    labels = torch.tensor([LABELS.index(label) for _, label in rows])
    read = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    for step in range(steps):
        chosen = torch.randint(len(rows), (BATCH,))
        loss = F.cross_entropy(model(**{name: array[chosen] for name, array in read.items()}).logits, labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}")
    return model.eval()


def accuracy(model: BertForSequenceClassification, tokenizer: BertTokenizer, rows: Sequence[tuple[str, str]]) -> float:
    """The share of texts that get the right label."""
    with torch.inference_mode():
        fed = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
        found = model(**fed).logits.argmax(1)
    return float((found == torch.tensor([LABELS.index(label) for _, label in rows])).float().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small BERT that sorts messages of customers.")
    parser.add_argument("output", type=Path, help="folder for model/, train.tsv and test.tsv")
    parser.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # more hardly speed up so small a model
    options.output.mkdir(parents=True, exist_ok=True)
    rows, held_out = [*messages(4000, seed=1)], [*messages(500, seed=2)]
    seen = {text for text, _ in rows}
    held_out = [row for row in held_out if row[0] not in seen]
    write_table(options.output / "train.tsv", rows)
    write_table(options.output / "test.tsv", held_out)
    tokenizer = tokenizer_of([text for text, _ in rows])
    model = train(rows, tokenizer, options.steps)
    model.save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")
    right = accuracy(model, tokenizer, held_out)
    print(f"{options.output / 'model'}: right on {len(held_out)} messages of test.tsv: {right:.1%}")


if __name__ == "__main__":
    main()
