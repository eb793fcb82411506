"""MobileViT in the form that is exported: the same weights and answers, with a smaller graph.

In every reshape only the batch varies. Attention is written in the form that runtimes fuse. The four positions in a
patch attend separately, as heads do, so they lie along the axis of the heads. Modules keep their names from the
checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchlift.families.attention import Attention, Heads
from torchlift.families.mobilevit.architecture import PATCH
from torchlift.families.mobilevit.network import MobileViT, MobileViTBlock, Transformer, to_map, to_tokens
from torchlift.families.mobilevit.transformers_network import TransformersMobileViT


class ExportedMobileViT(nn.Module):
    """Computes the same as MobileViT, with the same parameters."""

    def __init__(self, reference: MobileViT, attention: Attention) -> None:
        super().__init__()
        self.stem, self.fc = reference.stem, reference.fc
        self.stage1, self.stage2, self.stage3, self.stage4 = (
            reference.stage1,
            reference.stage2,
            reference.stage3,
            reference.stage4,
        )
        self.attention: Attention = attention

    def forward(self, image: Tensor) -> Tensor:
        x = self.stage1(self.stem(image))
        for residual, block, *last in (self.stage2, self.stage3, self.stage4):
            x = self._mixed(residual(x), block)
            for convolution in last:
                x = convolution(x)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits

    def _mixed(self, x: Tensor, block: MobileViTBlock) -> Tensor:
        local = block.local_representation(x)
        tokens = self._transformed(to_tokens(local), block.transformer)
        fused = block.fusion_block1(to_map(tokens, local.shape[-2], local.shape[-1]))
        mixed: Tensor = block.fusion_block2(torch.cat([x, fused], dim=1))
        return mixed

    def _transformed(self, tokens: Tensor, transformer: Transformer) -> Tensor:
        for layer in transformer.layers:
            first, second = layer  # type: ignore[misc]
            to = first.fn
            query, key, value = to.to_qvk(first.norm(tokens)).chunk(3, dim=-1)
            heads = Heads(PATCH * PATCH, query.shape[-1], self.attention, scale=to.scale)
            tokens = tokens + to.w_out(heads.attend_apart(query, key, value))
            tokens = tokens + second(tokens)
        return tokens


class ExportedTransformersMobileViT(nn.Module):
    """Computes the same as TransformersMobileViT, with the same parameters."""

    def __init__(self, reference: TransformersMobileViT, attention: Attention) -> None:
        super().__init__()
        self.mobilevit, self.classifier = reference.mobilevit, reference.classifier
        self.attention: Attention = attention

    def forward(self, image: Tensor) -> Tensor:
        network = self.mobilevit
        x = network.conv_stem(image)
        first, second, *blocks = network.encoder.layer
        x = second(first(x))
        for block in blocks:
            x = self._mixed(block.downsampling_layer(x), block)
        logits: Tensor = self.classifier(network.conv_1x1_exp(x).mean(dim=(2, 3)))
        return logits

    def _mixed(self, x: Tensor, block: nn.Module) -> Tensor:
        local = block.conv_1x1(block.conv_kxk(x))
        tokens = to_tokens(local)
        tokens = tokens.reshape(-1, *tokens.shape[2:])
        for layer in block.transformer.layer:
            to, normal = layer.attention.attention, layer.layernorm_before(tokens)
            heads = Heads(to.num_attention_heads, to.attention_head_size, self.attention)
            mixed = heads.attend(to.query(normal), to.key(normal), to.value(normal), (-1, tokens.shape[1]), None)
            tokens = tokens + layer.attention.output(mixed)
            tokens = layer.output(layer.intermediate(layer.layernorm_after(tokens)), tokens)
        fused = block.conv_projection(to_map(block.layernorm(tokens), local.shape[-2], local.shape[-1]))
        mixed_map: Tensor = block.fusion(torch.cat([x, fused], dim=1))
        return mixed_map


def exported_of(reference: MobileViT | TransformersMobileViT, attention: Attention) -> nn.Module:
    """The module to export for a network that has its weights. It is in eval mode."""
    if isinstance(reference, MobileViT):
        return ExportedMobileViT(reference, attention).eval()
    return ExportedTransformersMobileViT(reference, attention).eval()
