"""all-MiniLM-L6-v2, a network that embeds English sentences: strings in, an embedding of length 1 out.

SENTENCES=path/to/all-MiniLM-L6-v2 torchlift ship examples/sentences/net.py:build -o minilm/
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn
from transformers import BertModel

import torchlift as tl

FOLDER = Path(os.environ["SENTENCES"]).resolve()


class Sentences(nn.Module):
    """The mean of the last hidden states of a text's tokens."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask, int64 [batch, sequence], to float32 [batch, 384]."""
        states = self.bert(input_ids, attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1)


@tl.module(
    preprocess={
        "input_ids": tl.TextInput(str(FOLDER / "tokenizer.json"), length=256),
        "attention_mask": tl.TextPart("input_ids"),
    },
    outputs=["embedding"],
    postprocess={"embedding": tl.Embedding()},
)
def build() -> nn.Module:
    """The network with the weights of the folder."""
    return Sentences(BertModel.from_pretrained(FOLDER))
