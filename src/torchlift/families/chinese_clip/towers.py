"""The two published towers. They are built without weights, and get them later."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ChineseCLIPTextConfig, ChineseCLIPTextModel, ChineseCLIPVisionConfig, ChineseCLIPVisionModel

from torchlift.errors import SourceError
from torchlift.families.attention import Attention
from torchlift.families.chinese_clip.architecture import Architecture, ResNet
from torchlift.families.chinese_clip.resnet import ModifiedResNet
from torchlift.families.weights import fill as put_weights

POSITIONS = ("vision_model.embeddings.position_embedding.weight", "visual.attnpool.positional_embedding")
"""The tables of positions, whose length depends on the resolution. An image tower has one of the two."""


class ImageTransformer(nn.Module):
    """A vision transformer: image float32 [batch, 3, R, R] -> features [batch, embedding], not normalised."""

    def __init__(self, architecture: Architecture, attention: Attention) -> None:
        super().__init__()
        vision = architecture.vision
        assert not isinstance(vision, ResNet)
        config = ChineseCLIPVisionConfig(
            hidden_size=vision.width,
            intermediate_size=vision.feed_forward,
            projection_dim=architecture.embedding,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            image_size=architecture.resolution,
            patch_size=vision.patch,
            hidden_act=vision.activation,
            layer_norm_eps=vision.eps,
            attn_implementation="eager" if attention == "eager" else "sdpa",
        )
        model = ChineseCLIPVisionModel(config)
        self.vision_model = getattr(model, "vision_model", model)
        self.visual_projection = nn.Linear(vision.width, architecture.embedding, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.visual_projection(self.vision_model(image).pooler_output)
        return features


class ImageResNet(nn.Module):
    """A ResNet, as in RN50: image float32 [batch, 3, R, R] -> features [batch, embedding], not normalised."""

    def __init__(self, architecture: Architecture, attention: Attention) -> None:
        super().__init__()
        assert isinstance(architecture.vision, ResNet)
        self.visual = ModifiedResNet(architecture.vision, architecture.grid, architecture.embedding, attention)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.visual(image)
        return features


class TextTransformer(nn.Module):
    """BERT: ids int64 [batch, sequence], padded with 0 -> features [batch, embedding], not normalised."""

    def __init__(self, architecture: Architecture, attention: Attention) -> None:
        super().__init__()
        text = architecture.text
        config = ChineseCLIPTextConfig(
            vocab_size=text.vocabulary,
            hidden_size=text.width,
            intermediate_size=text.feed_forward,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            max_position_embeddings=text.positions,
            type_vocab_size=text.types,
            hidden_act=text.activation,
            layer_norm_eps=text.eps,
            attn_implementation="eager" if attention == "eager" else "sdpa",
        )
        self.text_model = ChineseCLIPTextModel(config, add_pooling_layer=False)
        self.text_projection = nn.Linear(text.width, architecture.embedding, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        states = self.text_model(input_ids=text, attention_mask=(text != 0).long()).last_hidden_state
        features: Tensor = self.text_projection(states[:, 0])
        return features


def build_image(architecture: Architecture, attention: Attention = "sdpa") -> ImageTransformer | ImageResNet:
    """The image tower on the meta device, which has shapes but no weights."""
    with torch.device("meta"):
        if isinstance(architecture.vision, ResNet):
            return ImageResNet(architecture, attention)
        return ImageTransformer(architecture, attention)


def build_text(architecture: Architecture, attention: Attention = "sdpa") -> TextTransformer:
    """The text tower on the meta device, which has shapes but no weights."""
    with torch.device("meta"):
        return TextTransformer(architecture, attention)


def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights that a checkpoint of this architecture has, by transformers' names."""
    towers = (build_image(architecture), build_text(architecture))
    shapes = {name: tuple(tensor.shape) for tower in towers for name, tensor in tower.state_dict().items()}
    return {**shapes, "logit_scale": ()}


def fill(tower: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a tower on the meta device its weights, and put it in eval mode. float32 weights are not copied.

    ``weights`` may hold more than the tower needs. Raises CheckpointError for a weight that is not finite or
    no floating point.
    """
    put_weights(tower, weights)
    _restore_buffers(tower)


def resize_positions(table: Tensor, grid: int) -> Tensor:
    """Resize position embeddings [1 + old * old, width] to [1 + grid * grid, width]. That of the class token stays.

    It is bicubic with aligned corners, as in the reference implementation for fine-tuning at another resolution.
    """
    old = round((len(table) - 1) ** 0.5)
    square = table[1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=True)
    return torch.cat([table[:1].float(), resized.permute(0, 2, 3, 1).flatten(0, 2)])


def _restore_buffers(tower: nn.Module) -> None:
    """Compute the buffers that are not in checkpoints. In transformers these are position ids and token type ids."""
    makers = {
        "position_ids": lambda buffer: torch.arange(buffer.shape[-1]).expand(buffer.shape),
        "token_type_ids": lambda buffer: torch.zeros(buffer.shape, dtype=torch.long),
    }
    for module in tower.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not buffer.is_meta:
                continue
            if name not in makers:
                raise SourceError(
                    f"this release of transformers has a buffer {name!r} that torchlift does not know",
                    remedy="Install transformers 5.23, with which it was tested.",
                )
            setattr(module, name, makers[name](buffer))
