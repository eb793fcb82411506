"""Apple's MobileViT from transformers (MobileViTForImageClassification), built from a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MobileViTConfig, MobileViTForImageClassification

from torchlift.errors import CheckpointError
from torchlift.families.mobilevit.architecture import PATCH, STRIDE


class TransformersMobileViT(nn.Module):
    """Images float32 [batch, 3, R, R] -> logits float32 [batch, classes]. Weights have the names of transformers."""

    def __init__(self, config: MobileViTConfig) -> None:
        super().__init__()
        network = MobileViTForImageClassification(config)
        self.mobilevit, self.dropout, self.classifier = network.mobilevit, network.dropout, network.classifier

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.mobilevit(image).pooler_output))
        return logits


def read_config(content: Mapping[str, Any]) -> MobileViTConfig:
    """The configuration in a config.json. Raises CheckpointError where it is not a classifier of RGB pictures."""
    try:
        config = MobileViTConfig.from_dict(dict(content))
    except Exception as error:  # transformers' validators raise many kinds
        raise CheckpointError(f"config.json cannot be used: {error}", remedy="Download the folder again.") from error
    needed = {"num_channels": 3, "patch_size": PATCH, "output_stride": STRIDE}
    wrong = [
        f"{key} is {getattr(config, key)}, not {value}"
        for key, value in needed.items()
        if getattr(config, key) != value
    ]
    if wrong:
        raise CheckpointError(
            f"config.json describes another network than a MobileViT classifier: {'; '.join(wrong)}",
            remedy="Give a folder saved from MobileViTForImageClassification, such as apple/mobilevit-small.",
        )
    return config


def build(config: MobileViTConfig) -> TransformersMobileViT:
    """The network on the meta device, which has shapes but no weights. Raises CheckpointError for conflicting sizes."""
    try:
        with torch.device("meta"):
            return TransformersMobileViT(config)
    except Exception as error:  # transformers and torch raise many kinds for numbers that do not fit
        raise CheckpointError(f"config.json cannot be used: {error}", remedy="Download the folder again.") from error
