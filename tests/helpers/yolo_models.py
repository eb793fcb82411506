"""Small YOLOs with random weights, written out plainly, and saved as the packages that train them save theirs.

The classes below are no part of a package. While a file is written they take the names of YOLOv5's or of YOLOv8's, in
modules that exist only then. The file names those, and nothing of that name can be imported when it is read.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import struct
import sys
import types
from pathlib import Path, PureWindowsPath

import numpy as np
import torch
from torch import nn

ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]
EPS = 1e-3


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, p=None, g=1, act=None):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2 if p is None else p, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=EPS)
        self.act = nn.SiLU() if act is None else act

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class DWConv(Conv):
    pass


class Focus(nn.Module):
    def __init__(self, c1, c2, k, act=None):
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, act=act)

    def forward(self, x):
        parts = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        return self.conv(torch.cat(parts, 1))


class Bottleneck(nn.Module):
    def __init__(self, c, add, k=(1, 3), act=None):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, c, k[0], act=act), Conv(c, c, k[1], act=act), add

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class BottleneckCSP(nn.Module):
    def __init__(self, c1, c2, n=1, add=True, act=None):
        super().__init__()
        c = c2 // 2
        self.cv1, self.cv4 = Conv(c1, c, act=act), Conv(2 * c, c2, act=act)
        self.cv2, self.cv3 = nn.Conv2d(c1, c, 1, bias=False), nn.Conv2d(c, c, 1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(2 * c, eps=EPS), nn.LeakyReLU(0.1)
        self.m = nn.Sequential(*(Bottleneck(c, add, act=act) for _ in range(n)))

    def forward(self, x):
        both = torch.cat([self.cv3(self.m(self.cv1(x))), self.cv2(x)], 1)
        return self.cv4(self.act(self.bn(both)))


class C3(nn.Module):
    def __init__(self, c1, c2, n=1, add=True, k=(1, 3), act=None):
        super().__init__()
        c = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, c, act=act), Conv(c1, c, act=act), Conv(2 * c, c2, act=act)
        self.m = nn.Sequential(*(Bottleneck(c, add, k, act=act) for _ in range(n)))

    def forward(self, x):
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class C3k(C3):
    pass


class SPP(nn.Module):
    def __init__(self, c1, c2, act=None):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2, act=act), Conv(2 * c1, c2, act=act)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))

    def forward(self, x):
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(nn.Module):
    def __init__(self, c1, c2, act=None):
        super().__init__()
        self.cv1, self.cv2, self.m = Conv(c1, c1 // 2), Conv(2 * c1, c2), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        a = self.cv1(x)
        b = self.m(a)
        c = self.m(b)
        return self.cv2(torch.cat([a, b, c, self.m(c)], 1))


class C2f(nn.Module):
    def __init__(self, c1, c2, n=1, add=True, inner=lambda c, add: Bottleneck(c, add, (3, 3))):
        super().__init__()
        self.c = c2 // 2
        self.cv1, self.cv2 = Conv(c1, c2), Conv((2 + n) * self.c, c2)
        self.m = nn.ModuleList(inner(self.c, add) for _ in range(n))

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class C3k2(C2f):
    pass


class Attention(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, c // heads
        self.key_dim = self.head_dim // 2
        self.scale = self.key_dim**-0.5
        off = nn.Identity()
        self.qkv, self.proj = Conv(c, 2 * c, act=off), Conv(c, c, act=off)
        self.pe = Conv(c, c, 3, g=c, act=off)

    def forward(self, x):
        batch, _, rows, columns = x.shape
        maps = self.qkv(x).reshape(batch, self.num_heads, -1, rows * columns)
        q, k, v = maps.split([self.key_dim, self.key_dim, self.head_dim], 2)
        weights = torch.einsum("bhcq,bhck->bhqk", q, k).mul(self.scale).softmax(-1)
        mixed = torch.einsum("bhqk,bhck->bhcq", weights, v).reshape(x.shape)
        return self.proj(mixed + self.pe(v.reshape(x.shape)))


class PSABlock(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.attn, self.add = Attention(c, heads), True
        self.ffn = nn.Sequential(Conv(c, 2 * c), Conv(2 * c, c, act=nn.Identity()))

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.cv1, self.cv2 = Conv(c, c), Conv(c, c)
        self.m = nn.Sequential(PSABlock(c // 2, heads))

    def forward(self, x):
        a, b = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat([a, self.m(b)], 1))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.d = 1

    def forward(self, maps):
        return torch.cat(maps, 1)


class Detect(nn.Module):
    """YOLOv5's. ``grid`` stores the anchors in pixels too, as releases to 5.0 did."""

    def __init__(self, nc, channels, anchors=ANCHORS, stride=8, grid=False):
        super().__init__()
        self.nc, self.no, self.nl, self.na = nc, 5 + nc, len(channels), len(anchors[0])
        self.stride = torch.tensor([float(stride << n) for n in range(self.nl)])
        pixels = torch.tensor(anchors).float()
        self.register_buffer("anchors", pixels / self.stride[:, None, None])
        if grid:
            self.register_buffer("anchor_grid", pixels.view(self.nl, 1, -1, 1, 1, 2).clone())
        else:
            self.grid, self.anchor_grid = [torch.empty(0)] * self.nl, [torch.empty(0)] * self.nl
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in channels)

    def forward(self, maps):
        found = []
        for level, (conv, x) in enumerate(zip(self.m, maps, strict=True)):
            raw = conv(x)
            batch, _, rows, columns = raw.shape
            s = raw.view(batch, self.na, self.no, rows, columns).permute(0, 1, 3, 4, 2).sigmoid()
            y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            middle = (s[..., :2] * 2 - 0.5 + torch.stack([x, y], -1)) * self.stride[level]
            size = (s[..., 2:4] * 2) ** 2 * (self.anchors[level] * self.stride[level])[:, None, None]
            found.append(torch.cat([middle, size, s[..., 4:]], -1).view(batch, -1, self.no))
        return torch.cat(found, 1)


class DFL(nn.Module):
    def __init__(self, bins):
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False)
        self.conv.weight.data[:] = torch.arange(bins).float().view(1, bins, 1, 1)


class FreeDetect(nn.Module):
    """YOLOv8's, and with ``depthwise`` YOLO11's."""

    def __init__(self, nc, channels, bins=16, depthwise=False, widths=(8, 8)):
        super().__init__()
        self.nc, self.nl, self.reg_max = nc, len(channels), bins
        self.stride = torch.tensor([float(8 << n) for n in range(self.nl)])

        def classes(c):
            if depthwise:
                pairs = [nn.Sequential(DWConv(n, n, 3, g=n), Conv(n, score)) for n in (c, score)]
                return nn.Sequential(*pairs, nn.Conv2d(score, nc, 1))
            return nn.Sequential(Conv(c, score, 3), Conv(score, score, 3), nn.Conv2d(score, nc, 1))

        def sides(c):
            return nn.Sequential(Conv(c, box, 3), Conv(box, box, 3), nn.Conv2d(box, 4 * bins, 1))

        box, score = widths
        self.cv2 = nn.ModuleList(sides(c) for c in channels)
        self.cv3 = nn.ModuleList(classes(c) for c in channels)
        self.dfl = DFL(bins)

    def forward(self, maps):
        found = []
        for level, x in enumerate(maps):
            rows, columns = x.shape[2:]
            sides = self.cv2[level](x).view(len(x), 4, self.reg_max, -1).softmax(2)
            left, top, right, bottom = (sides * torch.arange(self.reg_max).view(-1, 1)).sum(2).unbind(1)
            y, x0 = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
            x1, x2 = x0.flatten() - left, x0.flatten() + right
            y1, y2 = y.flatten() - top, y.flatten() + bottom
            box = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1) * self.stride[level]
            found.append(torch.cat([box, self.cv3[level](x).flatten(2).sigmoid()], 1))
        return torch.cat(found, 2)


class DetectionModel(nn.Module):
    """Layers with what each reads, as a tuple (module, f)."""

    def __init__(self, layers, names):
        super().__init__()
        for number, (module, f) in enumerate(layers):
            module.i, module.f, module.type = number, f, type(module).__name__
        self.model = nn.Sequential(*(module for module, _ in layers))
        self.save = sorted({n for m in self.model if isinstance(m.f, list) for n in m.f if n != -1})
        self.stride, self.names, self.yaml = self.model[-1].stride, names, {"nc": len(names)}

    def forward(self, x):
        kept = []
        for m in self.model:
            read = [x if n == -1 else kept[n] for n in m.f] if isinstance(m.f, list) else x
            x = m(read)
            kept.append(x)
        return x


def names(count):
    return [f"shape {n}" for n in range(count)]


def up():
    return nn.Upsample(None, 2, "nearest")


def _neck(block, c):
    """The layers from the end of the backbone to the head, of P5 models."""
    return [
        (Conv(c[4], c[3]), -1),
        (up(), -1),
        (Concat(), [-1, 6]),
        (block(2 * c[3], c[3], 1, False), -1),
        (Conv(c[3], c[2]), -1),
        (up(), -1),
        (Concat(), [-1, 4]),
        (block(2 * c[2], c[2], 1, False), -1),
        (Conv(c[2], c[2], 3, 2), -1),
        (Concat(), [-1, 14]),
        (block(2 * c[2], c[3], 1, False), -1),
        (Conv(c[3], c[3], 3, 2), -1),
        (Concat(), [-1, 10]),
        (block(2 * c[3], c[4], 1, False), -1),
    ]


def _down(block, c, repeats=(1, 1, 1, 1, 1)):
    """The layers of the backbone behind the first, without the pool."""
    sizes = zip(itertools.pairwise(c), repeats, strict=False)
    steps = [((Conv(a, b, 3, 2), -1), (block(b, b, n, True), -1)) for (a, b), n in sizes]
    return [layer for pair in steps for layer in pair]


def yolov5(classes=3, c=(4, 8, 8, 12, 16), repeats=(1, 1, 1, 1)):
    """As releases 6 and 7 have it: 24 layers and the head."""
    layers = [(Conv(3, c[0], 6, 2, 2), -1), *_down(C3, c, repeats), (SPPF(c[4], c[4]), -1), *_neck(C3, c)]
    head = Detect(classes, [c[2], c[3], c[4]])
    return awake(DetectionModel([*layers, (head, [17, 20, 23])], names(classes)))


def yolov5_older(classes=3, c=(4, 8, 8, 12, 16), block=C3, act=None):
    """As releases 3.1 to 5.0 have it: Focus, SPP before the last block, anchors in pixels."""

    def made(*arguments):
        return block(*arguments, act=act() if act else None)

    down = _down(made, c)
    layers = [(Focus(3, c[0], 3), -1), *down[:-1], (SPP(c[4], c[4]), -1), (made(c[4], c[4], 1, False), -1)]
    head = Detect(classes, [c[2], c[3], c[4]], grid=True)
    model = DetectionModel([*layers, *_neck(made, c), (head, [17, 20, 23])], names(classes))
    if act is not None:
        for module in model.modules():
            if isinstance(module, Conv):
                module.act = act()
    return awake(model)


def yolov5_csp(classes=3):
    """As release 3.1 has it: BottleneckCSP and Hardswish."""
    return yolov5_older(classes, block=BottleneckCSP, act=nn.Hardswish)


def yolov5_p6(classes=3, c=(4, 8, 8, 12, 12, 16)):
    """Four levels, with strides from 8 to 64."""
    neck = [
        (Conv(c[5], c[4]), -1),
        (up(), -1),
        (Concat(), [-1, 8]),
        (C3(2 * c[4], c[4], 1, False), -1),
        (Conv(c[4], c[3]), -1),
        (up(), -1),
        (Concat(), [-1, 6]),
        (C3(2 * c[3], c[3], 1, False), -1),
        (Conv(c[3], c[2]), -1),
        (up(), -1),
        (Concat(), [-1, 4]),
        (C3(2 * c[2], c[2], 1, False), -1),
        (Conv(c[2], c[2], 3, 2), -1),
        (Concat(), [-1, 20]),
        (C3(2 * c[2], c[3], 1, False), -1),
        (Conv(c[3], c[3], 3, 2), -1),
        (Concat(), [-1, 16]),
        (C3(2 * c[3], c[4], 1, False), -1),
        (Conv(c[4], c[4], 3, 2), -1),
        (Concat(), [-1, 12]),
        (C3(2 * c[4], c[5], 1, False), -1),
    ]
    layers = [(Conv(3, c[0], 6, 2, 2), -1), *_down(C3, c), (SPPF(c[5], c[5]), -1), *neck]
    anchors = [*ANCHORS, [[436, 615], [739, 380], [925, 792]]]
    head = Detect(classes, [c[2], c[3], c[4], c[5]], anchors)
    return awake(DetectionModel([*layers, (head, [23, 26, 29, 32])], names(classes)))


def yolov8(classes=3, c=(4, 8, 8, 16, 16), block=C2f, attention=False, repeats=(1, 1, 1, 1), widths=(8, 8)):
    """YOLOv8, and with C3k2 blocks and attention YOLO11."""
    last = [(SPPF(c[4], c[4]), -1), *([(C2PSA(c[4], 2), -1)] if attention else [])]
    backbone = [(Conv(3, c[0], 3, 2), -1), *_down(block, c, repeats), *last]
    end = len(backbone) - 1
    neck = [
        (up(), -1),
        (Concat(), [-1, 6]),
        (block(c[4] + c[3], c[3], 1, False), -1),
        (up(), -1),
        (Concat(), [-1, 4]),
        (block(c[3] + c[2], c[2], 1, False), -1),
        (Conv(c[2], c[2], 3, 2), -1),
        (Concat(), [-1, end + 3]),
        (block(c[2] + c[3], c[3], 1, False), -1),
        (Conv(c[3], c[3], 3, 2), -1),
        (Concat(), [-1, end]),
        (block(c[3] + c[4], c[4], 1, False), -1),
    ]
    head = FreeDetect(classes, [c[2], c[3], c[4]], depthwise=attention, widths=widths)
    read = [end + 6, end + 9, end + 12]
    model = DetectionModel([*backbone, *neck, (head, read)], dict(enumerate(names(classes))))
    return awake(model)


def yolo11(classes=3):
    def block(c1, c2, n, add):
        return C3k2(c1, c2, n, add, inner=lambda c, add: C3k(c, c, 2, add, (3, 3)))

    return yolov8(classes, block=block, attention=True)


def yolov5s():
    """YOLOv5s of release 7, of 80 classes: 7,235,389 parameters."""
    return calm(yolov5(80, (32, 64, 128, 256, 512), (1, 2, 3, 1)))


def yolov8n():
    """YOLOv8n, of 80 classes: 3,157,200 parameters, of which 16 are the numbers of the bins."""
    return calm(yolov8(80, (16, 32, 64, 128, 256), repeats=(1, 2, 2, 1), widths=(64, 80)))


def calm(network):
    """Make the answers depend less on rounding. So deep a network of random weights differs from itself in float64 by
    0.06 pixels, a trained one by a thousandth of that.
    """
    for branch in (m for m in network.model[-1].modules() if isinstance(m, nn.Conv2d) and m.bias is not None):
        branch.weight.data *= 0.1
    return network.half().float()


def awake(network, size=128):
    """Give a network random weights and the statistics of random pictures, as half precision holds them."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.shape[0] > 1:
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = 1.0
    for branch in (m for m in network.model[-1].modules() if isinstance(m, nn.Conv2d) and m.bias is not None):
        branch.weight.data *= 0.3
    patches = torch.rand(8, 3, 8, 8).repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3)
    with torch.no_grad():
        network.train()((patches + 0.1 * torch.randn(patches.shape)).clamp(0, 1))
    return network.half().float().eval()


V5 = {
    "models.common": (Conv, DWConv, Focus, Bottleneck, BottleneckCSP, C3, SPP, SPPF, Concat),
    "models.yolo": (Detect, DetectionModel),
}
V8 = {
    "ultralytics.nn.modules.conv": (Conv, DWConv, Concat),
    "ultralytics.nn.modules.block": (Bottleneck, C3, C3k, SPPF, C2f, C3k2, Attention, PSABlock, C2PSA, DFL),
    "ultralytics.nn.modules.head": (FreeDetect,),
    "ultralytics.nn.tasks": (DetectionModel,),
}
RENAMED = {"FreeDetect": "Detect"}


@contextlib.contextmanager
def named(package, **renamed):
    """The classes have the names of a package while the block runs, and can be imported by them."""
    before = {cls: (cls.__module__, cls.__qualname__, cls.__name__) for classes in package.values() for cls in classes}
    try:
        for module, classes in package.items():
            parts = module.split(".")
            for end in range(1, len(parts) + 1):
                sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
            for cls in classes:
                name = {**RENAMED, **renamed}.get(cls.__name__, cls.__name__)
                cls.__module__, cls.__qualname__, cls.__name__ = module, name, name
                setattr(sys.modules[module], name, cls)
        yield
    finally:
        for cls, (module, qualname, name) in before.items():
            cls.__module__, cls.__qualname__, cls.__name__ = module, qualname, name
        roots = {module.split(".")[0] for module in package}
        for name in [n for n in sys.modules if n.split(".")[0] in roots]:
            del sys.modules[name]


def checkpoint(model, **changes):
    """What training saves: the model in half precision, with a path of Windows and a score of numpy beside it."""
    content = {
        "epoch": -1,
        "best_fitness": np.float64(0.5),
        "model": copy.deepcopy(model).half(),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "opt": {"save_dir": PureWindowsPath("C:/runs/exp"), "epochs": 300},
        "date": "2022-11-22T00:00:00",
    }
    return content | changes


def save(model, file: Path, package=None, *, content=None, legacy=False, **renamed) -> Path:
    """Write a checkpoint of a model in the names of its package. ``legacy`` is torch's format before 1.6."""
    package = package or (V8 if isinstance(model.model[-1], FreeDetect) else V5)
    with named(package, **renamed):
        torch.save(content or checkpoint(model), file, _use_new_zipfile_serialization=not legacy)
    return file


def write_wts(model, file: Path) -> Path:
    """Write the weights as a ``.wts`` file, with the anchors in pixels and the strides beside them."""
    head = model.model[-1]
    state = dict(model.state_dict())
    last = f"model.{len(model.model) - 1}"
    state[f"{last}.anchor_grid"] = head.anchors * head.stride[:, None, None]
    state[f"{last}.strides"] = head.stride
    lines = [str(len(state))]
    for name, tensor in state.items():
        values = tensor.float().flatten().tolist()
        lines.append(f"{name} {len(values)} " + " ".join(struct.pack(">f", value).hex() for value in values))
    file.write_text("\n".join(lines) + "\n")
    return file
