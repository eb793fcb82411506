"""Full-size networks of the family bert with random weights, as folders, through the command line; minutes each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import berts
import pytest
import torch
import transformers

pytestmark = pytest.mark.full

BASE = {
    "bert": {"vocab_size": 30522, "max_position_embeddings": 512},
    "roberta": {"vocab_size": 50265, "max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1},
    "deberta-v2": {**berts.RELATIVE, "vocab_size": 128100, "position_buckets": 256, "hidden_size": 768,
                   "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
}  # fmt: skip


def full(kind: str, head: str, folder: Path) -> Path:
    """A network of the size of the base model of its kind, with the tiny tokenizer."""
    torch.manual_seed(0)
    auto = getattr(transformers, f"AutoModelFor{head}")
    auto.from_config(transformers.CONFIG_MAPPING[kind](**BASE[kind])).save_pretrained(folder)
    berts.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("bert", "QuestionAnswering"),
        ("bert", "MaskedLM"),
        ("roberta", "TokenClassification"),
        ("deberta-v2", "SequenceClassification"),
    ],
)
def test_a_full_size_network_ships(tmp_path: Path, kind: str, head: str) -> None:
    source, bundle = full(kind, head, tmp_path / "model"), tmp_path / "bundle"
    command = [sys.executable, "-m", "torchlift", "ship", "bert", "--checkpoint", source, "-o", bundle, "--json"]
    done = subprocess.run([*command, "--batch", "1", "--rounds", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    found = json.loads((bundle / "manifest.json").read_text())
    assert "model" in found["choices"]
