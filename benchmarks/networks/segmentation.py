"""Networks for every pixel, and of boxes, as they are written by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from zoo_case import Axis, Input, case, f32

PICTURE = f32("x", "batch", 3, "height", "width")
BY_16 = (Axis("height", 16, 32, 64, 16), Axis("width", 16, 48, 80, 16))


@case("segmentation", PICTURE)
class UNetWithCrops(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 12, 3, padding=1)
        self.up, self.c = nn.ConvTranspose2d(12, 6, 2, stride=2), nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x):
        skip = self.a(x).relu()
        y = self.up(self.b(F.max_pool2d(skip, 2)).relu())
        rows, columns = skip.size(2) - y.size(2), skip.size(3) - y.size(3)
        y = F.pad(y, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return self.c(torch.cat([skip, y], 1))


@case("segmentation", PICTURE, axes=BY_16)
class FeaturePyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(c, 8, 3, stride=2, padding=1) for c in (3, 8, 8))
        self.smooth = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x).relu()
            maps.append(x)
        found = OrderedMaps()
        top = None
        for level in (2, 1, 0):
            y = maps[level]
            if top is not None:
                y = y + F.interpolate(top, size=y.shape[-2:], mode="nearest")
            top = y
            found[f"p{level + 3}"] = self.smooth[level](y)
        return found


class OrderedMaps(dict):
    """A dict of a class of its own."""


@case("segmentation", PICTURE)
class AtrousPyramid(nn.Module):
    """DeepLab's head: dilated convolutions, the mean of the picture, and the answer at the input's size."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.rates = nn.ModuleList(nn.Conv2d(8, 6, 3, padding=r, dilation=r) for r in (1, 2, 4))
        self.pool, self.out = nn.Conv2d(8, 6, 1), nn.Conv2d(24, 5, 1)

    def forward(self, x):
        y = self.stem(x).relu()
        pooled = F.interpolate(self.pool(F.adaptive_avg_pool2d(y, 1)), y.shape[-2:], mode="bilinear")
        logits = self.out(torch.cat([*(rate(y) for rate in self.rates), pooled], 1))
        logits = F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": logits, "mask": logits.argmax(1)}


@case("segmentation", PICTURE)
class SuperResolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PReLU(16), nn.Conv2d(16, 27, 3, padding=1))
        self.shuffle = nn.PixelShuffle(3)

    def forward(self, x):
        return (F.interpolate(x, scale_factor=3, mode="bicubic") + self.shuffle(self.body(x))).clamp(0, 1)


@case("detection by hand", PICTURE, axes=BY_16)
class YoloHeadWithGrid(nn.Module):
    """Boxes in pixels beside probabilities, from a grid that is kept until the size changes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.SiLU(), nn.Conv2d(8, 2 * 8, 2, stride=2))
        self.register_buffer("anchors", torch.tensor([[10.0, 13.0], [33.0, 23.0]]))
        self.grid = torch.zeros(1)

    def forward(self, x):
        y = self.body(x)
        b, _, h, w = y.shape
        y = y.view(b, 2, 8, h, w).permute(0, 1, 3, 4, 2)
        if self.grid.shape[-3:-1] != y.shape[2:4]:
            ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            self.grid = torch.stack((xs, ys), 2).view(1, 1, h, w, 2).float()
        y = y.sigmoid()
        centre = (y[..., 0:2] * 2 - 0.5 + self.grid) * 8
        size = (y[..., 2:4] * 2) ** 2 * self.anchors.view(1, 2, 1, 1, 2)
        return torch.cat([centre, size, y[..., 4:]], -1).view(b, -1, 8)


@case("detection by hand", PICTURE)
class CentreNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.heat, self.size = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 3, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        y = self.body(x).relu()
        heat = self.heat(y).sigmoid()
        peaks = heat * (F.max_pool2d(heat, 3, 1, 1) == heat)
        scores, places = peaks.flatten(1).topk(6)
        w = heat.shape[-1]
        cell = places % (heat.shape[2] * w)
        sizes = self.size(y).flatten(2).gather(2, cell[:, None].expand(-1, 2, -1)).transpose(1, 2)
        centres = torch.stack([cell % w, cell // w], -1).float()
        return {"boxes": torch.cat([centres - sizes / 2, centres + sizes / 2], -1), "scores": scores}


@case("detection by hand", f32("boxes", "items", 4, within=(0, 20)), Input("scores", "float32", ("items",), (0, 1)))
class SuppressionLoop(nn.Module):
    """Non-maximum suppression as a Python loop over boxes."""

    def forward(self, boxes, scores):
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + 5 + boxes[:, 2:] / 4], 1)
        order, kept = scores.argsort(descending=True), []
        while len(order) > 0:
            best = order[0]
            kept.append(best)
            if len(order) == 1:
                break
            rest = order[1:]
            low = torch.maximum(boxes[best, :2], boxes[rest, :2])
            high = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
            inter = (high - low).clamp(min=0).prod(1)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            order = rest[inter / (areas[best] + areas[rest] - inter) < 0.5]
        return torch.stack(kept)


@case("detection by hand", f32("boxes", "items", 4, within=(0, 20)), Input("scores", "float32", ("items",), (0, 1)))
class SuppressionByMatrix(nn.Module):
    def forward(self, boxes, scores):
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + 5 + boxes[:, 2:] / 4], 1)
        order = scores.argsort(descending=True)
        boxes = boxes[order]
        low, high = (
            torch.maximum(boxes[:, None, :2], boxes[None, :, :2]),
            torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]),
        )
        inter = (high - low).clamp(min=0).prod(-1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        overlap = (inter / (areas[:, None] + areas[None] - inter)).triu(1)
        return scores[order] * (1 - overlap.amax(0)), order


@case("detection by hand", PICTURE, f32("boxes", "items", 4, within=(0, 1)))
class RegionsByGridSample(nn.Module):
    """Cuts boxes out of feature maps of the first picture, each to 5 by 5."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(150, 4)

    def forward(self, x, boxes):
        y = self.conv(x)[:1].expand(boxes.shape[0], -1, -1, -1)
        theta = torch.zeros(boxes.shape[0], 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = boxes[:, 2], boxes[:, 3]
        theta[:, 0, 2], theta[:, 1, 2] = boxes[:, 0] * 2 - 1, boxes[:, 1] * 2 - 1
        grid = F.affine_grid(theta, [boxes.shape[0], 6, 5, 5], align_corners=False)
        return self.head(F.grid_sample(y, grid, align_corners=False).flatten(1))
