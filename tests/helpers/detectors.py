"""A detector of bright cells: no training, and every box is known. Pictures to ask it about, and their labels."""

import numpy as np
from PIL import Image

from torchlift.declare.answers import Boxes
from torchlift.declare.inputs import ImageInput
from torchlift.signature import Axis, Signature, TensorSpec

NAMES = ("red", "green", "blue")
CELL = 8
SIDE = 64

NET = """
import torch
from torch import nn
from torch.nn import functional as F

from torchlift import Axis, Boxes, ImageInput, TensorSpec, module


class Cells(nn.Module):
    '''Each cell of 8 x 8 pixels is a box; its colour is its class, and how bright it is the score.'''

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 8, stride=8, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8) / 64)

    def forward(self, image):
        bright = ((self.conv(image) - 0.6) * 2.5).clamp(0, 1)
        rows = torch.arange(bright.shape[2]) * 8 + 4.0
        columns = torch.arange(bright.shape[3]) * 8 + 4.0
        y, x = rows[:, None].expand(bright.shape[2:]), columns[None].expand(bright.shape[2:])
        box = torch.stack([x, y, torch.full_like(x, 8), torch.full_like(x, 8)])
        box = box[None].expand(bright.shape[0], 4, *bright.shape[2:])
        found = torch.cat([box, bright.amax(1, keepdim=True), bright], 1)
        return found.flatten(2).transpose(1, 2)


@module(
    inputs=[TensorSpec("image", "float32", ("batch", 3, "height", "width"), bounds=(0, 1))],
    outputs=["found"],
    axes=[Axis("batch", 1, 2, 4), Axis("height", 32, 64, 64, step=32), Axis("width", 32, 64, 64, step=32)],
    preprocess={"image": ImageInput((64, 64), fit="letterbox", resample="linear", stride=32)},
    postprocess={"found": Boxes(("red", "green", "blue"), objectness=True)},
)
def build():
    return Cells()
"""

IMAGE = ImageInput((SIDE, SIDE), fit="letterbox", resample="linear", stride=32)
BOXES = Boxes(NAMES, objectness=True)
SIGNATURE = Signature(
    (TensorSpec("image", "float32", ("batch", 3, "height", "width"), bounds=(0, 1)),),
    (TensorSpec("found", "float32", ("batch", None, 5 + len(NAMES))),),
    (Axis("batch", 1, 2, 4), Axis("height", 32, 64, 64, step=32), Axis("width", 32, 64, 64, step=32)),
)


def cells(images):
    """What the network of ``NET`` gives, in NumPy: images float32 [batch, 3, height, width]."""
    batch, _, height, width = images.shape
    mean = images.reshape(batch, 3, height // CELL, CELL, width // CELL, CELL).mean((3, 5))
    bright = ((mean - 0.6) * 2.5).clip(0, 1).reshape(batch, 3, -1).transpose(0, 2, 1)
    y, x = np.meshgrid(np.arange(height // CELL), np.arange(width // CELL), indexing="ij")
    box = np.stack([x * CELL + 4, y * CELL + 4, np.full_like(x, CELL), np.full_like(x, CELL)], -1).reshape(1, -1, 4)
    box = np.broadcast_to(box, (batch, *box.shape[1:]))
    return np.concatenate([box, bright.max(2, keepdims=True), bright], 2).astype(np.float32)


def lit(marks, width=SIDE, height=SIDE):
    """A black picture with cells in the colour of a class: marks are class, column and row."""
    picture = np.zeros((height, width, 3), np.uint8)
    for kind, column, row in marks:
        picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL, kind] = 255
    return picture


def write_net(folder):
    """Write cells.py with the function ``build``, and return it."""
    file = folder / "cells.py"
    file.write_text(NET)
    return file


def write_data(folder, count=12, seed=0):
    """A data set of YOLO's kind in ``folder``, with the split ``val``. Returns its data.yaml."""
    rng = np.random.default_rng(seed)
    for name in ("images/val", "labels/val"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        places = rng.choice(SIDE * SIDE // CELL**2, 3, replace=False)
        marks = [(int(rng.integers(0, 3)), int(place) % 8, int(place) // 8) for place in places]
        Image.fromarray(lit(marks)).save(folder / "images/val" / f"{number}.png")
        lines = [f"{kind} {(c + 0.5) / 8} {(r + 0.5) / 8} 0.125 0.125" for kind, c, r in marks]
        (folder / "labels/val" / f"{number}.txt").write_text("\n".join(lines))
    file = folder / "data.yaml"
    file.write_text(f"path: .\nval: images/val\nnc: 3\nnames: [{', '.join(NAMES)}]\n")
    return file
