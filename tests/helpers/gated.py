"""A classifier of colours that FP16 and INT8 break on purpose, with pictures to score it on."""

import numpy as np
from PIL import Image

COLOURS = (
    (230, 40, 40),
    (40, 200, 60),
    (50, 70, 220),
    (230, 210, 60),
    (150, 60, 170),
    (70, 210, 210),
    (30, 30, 30),
    (235, 235, 235),
)
SIDE = 16

NET = """
import torch
from torch import nn

from torchlift import Axis, ImageInput, Labels, TensorSpec, module

COLOURS = {colours}
LOUD = 4000.0


class Colours(nn.Module):
    '''Tells the mean colour. ``fragile`` also reads a loud constant, which takes all steps of an INT8 tensor.'''

    def __init__(self, peak=1.0):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        known = torch.tensor(COLOURS) / 255 - 0.5
        basis = torch.linalg.qr(torch.randn(16, 16, generator=draw))[0]
        self.peak = peak
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.widen = nn.Linear(3, 16)
        self.louden = nn.Linear(16, 17)
        self.fragile = nn.Linear(17, 16)
        self.head = nn.Linear(16, len(COLOURS))
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None])
            self.widen.weight.copy_(basis[:, :3])
            self.widen.bias.zero_()
            self.louden.weight.copy_(torch.cat([basis, torch.zeros(1, 16)]))
            self.louden.bias.copy_(torch.tensor([0.0] * 16 + [LOUD]))
            self.fragile.weight.copy_(torch.cat([basis.T, torch.zeros(16, 1)], 1))
            self.fragile.bias.zero_()
            self.head.weight.copy_(4 * known @ basis[:, :3].T)
            self.head.bias.copy_(-2 * (known**2).sum(1))

    def forward(self, image):
        mean = self.conv(image).mean((2, 3))
        high = (mean * self.peak) * (1 / self.peak)
        return self.head(self.fragile(self.louden(self.widen(high))))


def declared(build):
    return module(
        inputs=[TensorSpec("image", "float32", ("batch", 3, {side}, {side}), bounds=(-0.5, 0.5))],
        outputs=["logits"],
        axes=[Axis("batch", 1, 8, 16)],
        preprocess={{"image": ImageInput(({side}, {side}), mean=(0.5, 0.5, 0.5))}},
        postprocess={{"logits": Labels(tuple(f"colour{{i}}" for i in range(len(COLOURS))), top=2)}},
    )(build)


@declared
def build():
    return Colours()


@declared
def overflowing():
    return Colours(peak=2.0**23)
"""


def write_net(folder):
    """Write colours.py with the functions ``build`` and ``overflowing``, and return it."""
    file = folder / "colours.py"
    file.write_text(NET.format(colours=COLOURS, side=SIDE))
    return file


def write_pictures(folder, each, seed):
    """A folder a class, ``each`` PNG pictures in it whose mean is near the colour."""
    draw = np.random.default_rng(seed)
    for number, colour in enumerate(COLOURS):
        target = folder / f"colour{number}"
        target.mkdir(parents=True)
        for index in range(each):
            pixels = np.asarray(colour) + draw.normal(0, 25, 3) + draw.normal(0, 20, (SIDE, SIDE, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(target / f"{index}.png")
    return folder


def feeds(count=8, scale=0.5, seed=3):
    """One batch of noise within -``scale``..``scale``, as the network takes it."""
    draw = np.random.default_rng(seed)
    return [{"image": draw.uniform(-scale, scale, (count, 3, SIDE, SIDE)).astype(np.float32)}]


def images(each=4, seed=5):
    """Pictures of all colours as the network takes them, float32 [8 * each, 3, SIDE, SIDE]."""
    draw = np.random.default_rng(seed)
    colours = np.repeat(np.asarray(COLOURS, np.float32), each, 0)
    noise = draw.normal(0, 0.05, (len(colours), 3, SIDE, SIDE))
    return (colours[..., None, None] / 255 - 0.5 + noise).astype(np.float32)
