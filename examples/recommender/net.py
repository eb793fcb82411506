"""A network of one's own, with several inputs and outputs: scores a user's history of items against candidates.

torchlift ship examples/recommender/net.py:build -o net/
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchlift as tl

ITEMS, GENRES, WIDTH = 5_000, 8, 64


class Recommender(nn.Module):
    """Attention over a history of item ids and ratings; id 0 pads."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, WIDTH, padding_idx=0)
        self.rating = nn.Linear(1, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.genre = nn.Linear(WIDTH, GENRES)

    def forward(self, history: Tensor, ratings: Tensor, candidate: Tensor) -> tuple[Tensor, Tensor]:
        """History [B, L] int64, ratings [B, L] float32, candidate [B] int64 -> score [B], genre logits [B, 8]."""
        events = self.items(history) + self.rating(ratings.unsqueeze(-1))
        query = self.items(candidate).unsqueeze(1)
        taste, _ = self.attention(query, events, events, key_padding_mask=history == 0, need_weights=False)
        taste = taste.squeeze(1)
        return F.cosine_similarity(taste, query.squeeze(1)), self.genre(taste)


@tl.module(
    inputs=[
        tl.TensorSpec("history", "int64", ("batch", "events"), bounds=(0, ITEMS)),
        tl.TensorSpec("ratings", "float32", ("batch", "events"), bounds=(1, 5)),
        tl.TensorSpec("candidate", "int64", ("batch",), bounds=(1, ITEMS)),
    ],
    outputs=["score", "genre"],
    axes=[tl.Axis("batch", 1, 16, 256), tl.Axis("events", 1, 20, 100)],
    postprocess={"genre": tl.Labels(("drama", "comedy", "crime", "war", "music", "sport", "news", "animation"), top=3)},
)
def build() -> nn.Module:
    """The network with its weights; a real project would load a checkpoint here."""
    torch.manual_seed(0)
    return Recommender()
