"""The towers in the form that is exported: the same weights and answers, with a smaller graph.

Only the first token of the last layer is used. So that layer computes the query, the output projection and the MLP for
this token only. Class token, positions and token types are added as one table. The mask takes three operators on
floats.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchlift.families.attention import Attention, Heads
from torchlift.families.chinese_clip.towers import ImageTransformer, TextTransformer

MASKED = 10000.0
"""It is subtracted from the score of a padding token. float16 holds it, and softmax makes exactly 0 of it."""


class ExportedImage(nn.Module):
    """Computes the same as ImageTransformer, with the same parameters."""

    def __init__(self, reference: ImageTransformer, attention: Attention) -> None:
        super().__init__()
        self.vision_model = reference.vision_model
        self.visual_projection = reference.visual_projection
        embeddings = self.vision_model.embeddings
        positions = embeddings.position_embedding.weight.clone()
        positions[0] += embeddings.class_embedding
        self.positions = nn.Buffer(positions, persistent=False)
        self.length, self.width = positions.shape
        first = self.vision_model.encoder.layers[0].self_attn
        self.heads = Heads(first.num_heads, first.head_dim, attention)

    def forward(self, image: Tensor) -> Tensor:
        network = self.vision_model
        patches = network.embeddings.patch_embedding(image).view(-1, self.width, self.length - 1).transpose(1, 2)
        states = network.pre_layrnorm(self._with_class_row(patches) + self.positions)
        *layers, last = network.encoder.layers
        shape = (-1, self.length)
        for layer in layers:
            to, inner = layer.self_attn, layer.layer_norm1(states)
            mixed = self.heads.attend(to.q_proj(inner), to.k_proj(inner), to.v_proj(inner), shape, None)
            states = states + to.out_proj(mixed)
            states = states + layer.mlp(layer.layer_norm2(states))
        to, inner = last.self_attn, last.layer_norm1(states)
        mixed = self.heads.attend_one(to.q_proj(inner[:, 0]), to.k_proj(inner), to.v_proj(inner), shape, None)
        token = states[:, 0] + to.out_proj(mixed)
        token = token + last.mlp(last.layer_norm2(token))
        features: Tensor = self.visual_projection(network.post_layernorm(token))
        return features

    def _with_class_row(self, patches: Tensor) -> Tensor:
        """Add a row of zeros in front. F.pad is one operator, but TorchScript's exporter writes it as fifteen."""
        if self.heads.style != "eager":
            return F.pad(patches, (0, 0, 1, 0))
        return torch.cat([torch.zeros_like(patches[:, :1]), patches], dim=1)


class ExportedText(nn.Module):
    """Computes the same as TextTransformer, with the same parameters, for texts of at most ``longest`` tokens."""

    def __init__(self, reference: TextTransformer, attention: Attention, longest: int) -> None:
        super().__init__()
        self.text_model = reference.text_model
        self.text_projection = reference.text_projection
        embeddings = self.text_model.embeddings
        positions = embeddings.position_embeddings.weight[:longest] + embeddings.token_type_embeddings.weight[0]
        self.positions = nn.Buffer(positions, persistent=False)
        first = self.text_model.encoder.layer[0].attention.self
        self.heads = Heads(first.num_attention_heads, first.attention_head_size, attention)

    def forward(self, text: Tensor) -> Tensor:
        network = self.text_model
        shape = (text.shape[0], text.shape[1])
        bias = ((text.float().clamp(max=1.0) - 1.0) * MASKED)[:, None, None, :]
        words = network.embeddings.word_embeddings(text)
        states = network.embeddings.LayerNorm(words + self.positions[: shape[1]])
        *layers, last = network.encoder.layer
        for layer in layers:
            to = layer.attention.self
            mixed = self.heads.attend(to.query(states), to.key(states), to.value(states), shape, bias)
            states = layer.attention.output(mixed, states)
            states = layer.output(layer.intermediate(states), states)
        to, token = last.attention.self, states[:, 0]
        mixed = self.heads.attend_one(to.query(token), to.key(states), to.value(states), shape, bias)
        token = last.attention.output(mixed, token)
        token = last.output(last.intermediate(token), token)
        features: Tensor = self.text_projection(token)
        return features


def exported_of(reference: nn.Module, attention: Attention, longest: int) -> nn.Module:
    """The module to export for a tower that has its weights.

    A ResNet is exported as it is: it computes nothing extra.
    """
    with torch.no_grad():
        if isinstance(reference, ImageTransformer):
            return ExportedImage(reference, attention).eval()
        if isinstance(reference, TextTransformer):
            return ExportedText(reference, attention, longest).eval()
    return reference
