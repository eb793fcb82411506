"""BERT and its kin: question answering, classification of texts and of tokens, masked words, encoders, embeddings."""

from __future__ import annotations

from torchlift.families.bert.family import Bert

__all__ = ["Bert"]
