"""Convolutions, pooling, resizing, sampling and norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from zoo_case import Axis, case, f32

PICTURE = f32("x", "batch", 3, "height", "width")
BY_16 = (Axis("height", 16, 32, 64, 16), Axis("width", 16, 48, 80, 16))


def picture(name: str, function, group: str = "pictures", **more) -> None:
    """Add a network that is a convolution to four channels and then ``function``."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            return function(self.conv(x))

    case(group, PICTURE, name=name, **more)(Network)


picture("avg-pool-ceil", lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True))
picture("avg-pool-ceil-padded", lambda x: F.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True, count_include_pad=False))
picture("max-pool-ceil", lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True))
picture("max-pool-indices", lambda x: F.max_pool2d(x, 2, return_indices=True))
picture("max-unpool", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), axes=BY_16)
picture("adaptive-average", lambda x: F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))
picture("adaptive-average-3-by-5", lambda x: F.adaptive_avg_pool2d(x, (3, 5)))
picture("adaptive-max-4", lambda x: F.adaptive_max_pool2d(x, 4))
picture("lp-pool", lambda x: F.lp_pool2d(x, 2, 3, stride=2))
picture("resize-nearest", lambda x: F.interpolate(x, scale_factor=2, mode="nearest"))
picture("resize-nearest-exact", lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"))
picture("resize-bilinear", lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear", align_corners=False))
picture("resize-bilinear-corners", lambda x: F.interpolate(x, size=(33, 21), mode="bilinear", align_corners=True))
picture("resize-bicubic", lambda x: F.interpolate(x, size=(40, 40), mode="bicubic"))
picture("resize-antialias", lambda x: F.interpolate(x, size=(9, 11), mode="bilinear", antialias=True))
picture("resize-area", lambda x: F.interpolate(x, size=(6, 7), mode="area"))
picture("resize-to-half", lambda x: F.interpolate(x, size=(x.shape[2] // 2, x.shape[3] // 2), mode="bilinear"))
picture("resize-back", lambda x: F.interpolate(F.avg_pool2d(x, 4), size=x.shape[-2:], mode="bicubic"))
picture("pixel-shuffle", lambda x: F.pixel_shuffle(x, 2))
picture("pixel-unshuffle", lambda x: F.pixel_unshuffle(x, 4), axes=BY_16)
picture("channel-shuffle", lambda x: F.channel_shuffle(x, 2))
picture("unfold-patches", lambda x: F.unfold(x, 3, dilation=2, padding=1, stride=2))
picture("fold-back", lambda x: F.fold(F.unfold(x, 4, stride=4), x.shape[-2:], 4, stride=4), axes=BY_16)
picture("pad-circular", lambda x: F.pad(F.pad(x, (2, 1, 3, 0), mode="circular"), (1, 2), value=0.5))
picture("instance-norm", lambda x: F.instance_norm(x) * 2)
picture("group-norm", lambda x: F.group_norm(x, 2) + F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2))
picture("local-response-norm", lambda x: F.local_response_norm(x, 3))
picture("grid-sample", lambda x: F.grid_sample(x, _grid(x), align_corners=False, padding_mode="border"))
picture("grid-sample-bicubic", lambda x: F.grid_sample(x, _grid(x) * 1.3, mode="bicubic", align_corners=True))
picture("spatial-soft-argmax", lambda x: _soft_argmax(x))
picture("depthwise-blur", lambda x: F.conv2d(F.pad(x, (1,) * 4, "reflect"), torch.ones(4, 1, 3, 3) / 9, groups=4))


def _grid(x: torch.Tensor) -> torch.Tensor:
    theta = torch.tensor([[0.8, 0.3, 0.1], [-0.2, 0.9, -0.1]]).expand(x.shape[0], 2, 3)
    return F.affine_grid(theta, [x.shape[0], 4, x.shape[2], x.shape[3]], align_corners=False)


def _soft_argmax(x: torch.Tensor) -> torch.Tensor:
    h, w = x.shape[-2:]
    heat = (x * 3).flatten(2).softmax(-1).view_as(x)
    ys, xs = torch.arange(h, dtype=x.dtype), torch.arange(w, dtype=x.dtype)
    return torch.stack([(heat.sum(2) * xs).sum(-1), (heat.sum(3) * ys).sum(-1)], -1)


@case("pictures", PICTURE)
class TransposedConvolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1)
        self.b = nn.ConvTranspose2d(6, 4, 3, stride=3, output_padding=1, groups=2, dilation=2)

    def forward(self, x):
        return self.b(self.a(x).relu())


@case("pictures", PICTURE)
class TransposeToAGivenSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ConvTranspose2d(6, 3, 3, 2, padding=1)

    def forward(self, x):
        return self.up(self.down(x), output_size=x.shape)


@case("pictures", f32("x", "batch", 2, "frames", 10, 12), axes=(Axis("frames", 4, 8, 13),))
class Convolutions3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(6, 4, 2)
        )

    def forward(self, x):
        return F.interpolate(self.net(x), scale_factor=(1, 2, 2), mode="trilinear")


@case("pictures", PICTURE)
class SpectralNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)), nn.LeakyReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x):
        return self.net(x)


@case("pictures", f32("x", "batch", 8))
class WeightNormAndOrthogonal(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Linear(8, 8))
        self.b = parametrizations.orthogonal(nn.Linear(8, 8))

    def forward(self, x):
        return self.b(self.a(x).tanh())


@case("pictures", PICTURE)
class SqueezeAndExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding="valid")
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU6(), nn.Conv2d(2, 8, 1), nn.Hardsigmoid()
        )

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(x)


@case("pictures", PICTURE)
class SamePaddingDynamic(nn.Module):
    """Pads as TensorFlow does: more on the right where the stride does not fit."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)

    def forward(self, x):
        h, w = x.shape[-2:]
        rows = max((-(h // -2) - 1) * 2 + 3 - h, 0)
        columns = max((-(w // -2) - 1) * 2 + 3 - w, 0)
        return self.conv(F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]))


@case("pictures", PICTURE)
class DynamicConvolution(nn.Module):
    """Kernels computed from the picture itself, one set a sample, by groups."""

    def __init__(self):
        super().__init__()
        self.kernels = nn.Linear(3, 4 * 3 * 9)

    def forward(self, x):
        b, c, h, w = x.shape
        kernels = self.kernels(x.mean((2, 3))).view(b * 4, c, 3, 3)
        return F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b).view(b, 4, h, w)


@case("pictures", PICTURE)
class DeformableSampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.offsets, self.values, self.out = nn.Conv2d(3, 18, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Linear(36, 5)

    def forward(self, x):
        b, _, h, w = x.shape
        ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        base = torch.stack([xs, ys], -1).float()
        offsets = self.offsets(x).permute(0, 2, 3, 1).view(b, h, w, 9, 2)
        places = (base[None, :, :, None] + offsets) / torch.tensor([w - 1, h - 1]) * 2 - 1
        found = F.grid_sample(self.values(x), places.reshape(b, h, w * 9, 2), align_corners=True)
        return self.out(found.view(b, 4, h, w, 9).permute(0, 2, 3, 1, 4).reshape(b, h, w, 36))
