"""The network and its head."""

import torch
from torch import nn

from models.common import C3, SPPF, Concat, Conv

ANCHORS = (((14, 14), (20, 20), (28, 28)), ((36, 36), (48, 48), (64, 64)))
"""Width and height of the anchors, in pixels, of each level."""

STRIDES = (8, 16)


class Detect(nn.Module):
    """Raw maps, one a level: [batch, anchors, rows, columns, 5 + classes]."""

    def __init__(self, classes, channels):
        super().__init__()
        self.nc, self.no = classes, 5 + classes
        self.nl, self.na = len(channels), len(ANCHORS[0])
        self.stride = torch.tensor(STRIDES, dtype=torch.float32)
        shares = torch.tensor(ANCHORS, dtype=torch.float32) / self.stride[:, None, None]
        self.register_buffer("anchors", shares)
        self.m = nn.ModuleList(nn.Conv2d(n, self.no * self.na, 1) for n in channels)
        for layer in self.m:  # an object is rare: start with that
            layer.bias.data.view(self.na, -1)[:, 4] -= 5

    def forward(self, maps):
        found = []
        for x, layer in zip(maps, self.m, strict=True):
            y = layer(x)
            batch, _, rows, columns = y.shape
            found.append(y.view(batch, self.na, self.no, rows, columns).permute(0, 1, 3, 4, 2))
        return found


class DetectionModel(nn.Module):
    """Layers in a row, each of which reads the one before or those that its ``f`` names."""

    def __init__(self, names):
        super().__init__()
        layers = [
            (Conv(3, 12, 6, 2, 2), -1),
            (Conv(12, 24, 3, 2), -1),
            (C3(24, 24), -1),
            (Conv(24, 48, 3, 2), -1),
            (C3(48, 48), -1),
            (Conv(48, 64, 3, 2), -1),
            (SPPF(64, 64), -1),
            (nn.Upsample(None, 2, "nearest"), -1),
            (Concat(), [-1, 4]),
            (C3(112, 48, add=False), -1),
            (Detect(len(names), (48, 64)), [9, 6]),
        ]
        for number, (layer, f) in enumerate(layers):
            layer.i, layer.f, layer.type = number, f, type(layer).__name__
        self.model = nn.Sequential(*(layer for layer, _ in layers))
        self.save = [4, 6, 9]
        self.names, self.nc, self.stride = list(names), len(names), self.model[-1].stride
        self.yaml = {"nc": len(names)}

    def forward(self, x):
        kept = []
        for layer in self.model:
            read = [kept[n] for n in layer.f] if isinstance(layer.f, list) else x
            x = layer(read)
            kept.append(x)
        return x
