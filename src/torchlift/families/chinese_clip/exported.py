"""The towers as they are exported: the published weights and answers, by a smaller graph.

Only the first token of the last layer is read, so there only its query, its output projection and its MLP are
computed; class token, positions and token types are added as one table; the mask is three operators on floats.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchlift.families.chinese_clip.attention import Attention, attend, attend_one
from torchlift.families.chinese_clip.towers import ImageTransformer, TextTransformer

MASKED = 10000.0
"""What is taken from the score of a padding token: float16 holds it, and softmax makes exactly 0 of it."""


class ExportedImage(nn.Module):
    """Takes and returns what ImageTransformer does, with the same parameters."""

    def __init__(self, reference: ImageTransformer, attention: Attention) -> None:
        super().__init__()
        self.vision_model = reference.vision_model
        self.visual_projection = reference.visual_projection
        self.attention = attention
        embeddings = self.vision_model.embeddings
        positions = embeddings.position_embedding.weight.clone()
        positions[0] += embeddings.class_embedding
        self.positions = nn.Buffer(positions, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        network = self.vision_model
        patches = network.embeddings.patch_embedding(image).flatten(2).transpose(1, 2)
        states = network.pre_layrnorm(F.pad(patches, (0, 0, 1, 0)) + self.positions)
        *layers, last = network.encoder.layers
        for layer in layers:
            states = states + self._attend(layer, layer.layer_norm1(states))
            states = states + layer.mlp(layer.layer_norm2(states))
        token = states[:, 0] + self._attend_first(last, last.layer_norm1(states))
        token = token + last.mlp(last.layer_norm2(token))
        features: Tensor = self.visual_projection(network.post_layernorm(token))
        return features

    def _attend(self, layer: nn.Module, states: Tensor) -> Tensor:
        to = layer.self_attn
        query, key, value = to.q_proj(states), to.k_proj(states), to.v_proj(states)
        mixed: Tensor = to.out_proj(attend(query, key, value, to.num_heads, None, self.attention))
        return mixed

    def _attend_first(self, layer: nn.Module, states: Tensor) -> Tensor:
        to = layer.self_attn
        query, key, value = to.q_proj(states[:, 0]), to.k_proj(states), to.v_proj(states)
        mixed: Tensor = to.out_proj(attend_one(query, key, value, to.num_heads, None, self.attention))
        return mixed


class ExportedText(nn.Module):
    """Takes and returns what TextTransformer does, with the same parameters, for texts up to ``longest`` tokens."""

    def __init__(self, reference: TextTransformer, attention: Attention, longest: int) -> None:
        super().__init__()
        self.text_model = reference.text_model
        self.text_projection = reference.text_projection
        self.attention = attention
        embeddings = self.text_model.embeddings
        positions = embeddings.position_embeddings.weight[:longest] + embeddings.token_type_embeddings.weight[0]
        self.positions = nn.Buffer(positions, persistent=False)

    def forward(self, text: Tensor) -> Tensor:
        network = self.text_model
        bias = ((text.float().clamp(max=1.0) - 1.0) * MASKED)[:, None, None, :]
        words = network.embeddings.word_embeddings(text)
        states = network.embeddings.LayerNorm(words + self.positions[: text.shape[1]])
        *layers, last = network.encoder.layer
        for layer in layers:
            states = layer.attention.output(self._attend(layer, states, bias), states)
            states = layer.output(layer.intermediate(states), states)
        token = last.attention.output(self._attend_first(last, states, bias), states[:, 0])
        token = last.output(last.intermediate(token), token)
        features: Tensor = self.text_projection(token)
        return features

    def _attend(self, layer: nn.Module, states: Tensor, bias: Tensor) -> Tensor:
        to = layer.attention.self
        query, key, value = to.query(states), to.key(states), to.value(states)
        return attend(query, key, value, to.num_attention_heads, bias, self.attention)

    def _attend_first(self, layer: nn.Module, states: Tensor, bias: Tensor) -> Tensor:
        to = layer.attention.self
        query, key, value = to.query(states[:, 0]), to.key(states), to.value(states)
        return attend_one(query, key, value, to.num_attention_heads, bias, self.attention)


def exported_of(reference: nn.Module, attention: Attention, longest: int) -> nn.Module:
    """The module to export for a filled tower; a ResNet computes nothing that is not read, and is its own."""
    with torch.no_grad():
        if isinstance(reference, ImageTransformer):
            return ExportedImage(reference, attention).eval()
        if isinstance(reference, TextTransformer):
            return ExportedText(reference, attention, longest).eval()
    return reference
