"""MobileNetV2 for ImageNet, with weights that torchvision published: pictures in, labels out.

IMAGENET=path/to/mobilenet_v2-b0353104.pth torchlift ship examples/imagenet/net.py:build -o mobilenet/
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

import torchlift as tl

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Of each stage: the factor by which a block widens its input, its output's channels, how many blocks, the stride."""


def convolution(inner: int, outer: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size but for the stride, normalised, between 0 and 6."""
    layer = nn.Conv2d(inner, outer, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outer), nn.ReLU6())


class Block(nn.Module):
    """Widens, filters each channel by itself, narrows; its input is added where the shape is the same."""

    def __init__(self, inner: int, outer: int, stride: int, factor: int) -> None:
        super().__init__()
        width = inner * factor
        widened = [convolution(inner, width, kernel=1)] if factor > 1 else []
        filtered = convolution(width, width, stride=stride, groups=width)
        self.conv = nn.Sequential(*widened, filtered, nn.Conv2d(width, outer, 1, bias=False), nn.BatchNorm2d(outer))
        self.added = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        """Float32 [batch, inner, height, width] to [batch, outer, height / stride, width / stride]."""
        return x + self.conv(x) if self.added else self.conv(x)


class MobileNetV2(nn.Module):
    """The names of the parameters are those of torchvision.models.mobilenet_v2."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [convolution(3, 32, stride=2)], 32
        for factor, outer, count, stride in STAGES:
            for position in range(count):
                layers.append(Block(channels, outer, stride if position == 0 else 1, factor))
                channels = outer
        self.features = nn.Sequential(*layers, convolution(channels, 1280, kernel=1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels, float32 [batch, 3, 224, 224], to logits, float32 [batch, 1000]."""
        return self.classifier(self.features(pixels).mean([2, 3]))


PICTURES = tl.ImageInput(
    (224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resample="bilinear", fit="crop", shorter_side=256
)
LABELS = tl.Labels(tuple(map(str, range(1000))))


@tl.module(preprocess={"pixels": PICTURES}, outputs=["logits"], postprocess={"logits": LABELS})
def build() -> nn.Module:
    """The network with the weights of the file."""
    network = MobileNetV2()
    network.load_state_dict(torch.load(os.environ["IMAGENET"], weights_only=True))
    return network
