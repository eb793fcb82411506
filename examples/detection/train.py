"""Trains a small YOLO on drawn shapes, and writes it as YOLOv5 writes its checkpoints.

python examples/detection/train.py shapes
torchlift ship yolov5 --checkpoint shapes/shapes.pt --resolution 128 --data shapes/data.yaml --within map50=0.5 -o yolo
torchlift run yolo --image shapes/images/val/0000.png --draw boxes.png
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

from models.yolo import ANCHORS, STRIDES, DetectionModel

from shapes import NAMES, SIDE, draw, write

LARGEST_RATIO = 4.0
"""An anchor takes a box whose sides are at most so many times as long or as short."""


def assigned(rows, level, shape):
    """Which cells of a level shall find the boxes, rows picture, class, x, y, width, height in pixels: the indices
    picture, anchor, row and column of each, its box relative to the cell, and its class.
    """
    anchors, stride = torch.tensor(ANCHORS[level], dtype=torch.float32), STRIDES[level]
    ratio = rows[:, None, 4:6] / anchors
    box, anchor = torch.nonzero(torch.maximum(ratio, 1 / ratio).amax(2) < LARGEST_RATIO, as_tuple=True)
    place, size = rows[box, 2:4] / stride, rows[box, 4:6] / stride
    cell = place.floor()
    near = torch.where(place - cell < 0.5, -1, 1).float()  # the nearer neighbour finds it too
    steps = [cell, cell + near * torch.tensor([1.0, 0.0]), cell + near * torch.tensor([0.0, 1.0])]
    cells = torch.cat(steps)
    box, anchor, place, size = box.repeat(3), anchor.repeat(3), place.repeat(3, 1), size.repeat(3, 1)
    limits = torch.tensor([shape[3], shape[2]])
    inside = ((cells >= 0) & (cells < limits)).all(1)
    box, anchor, place, size, cells = box[inside], anchor[inside], place[inside], size[inside], cells[inside]
    column, row = cells.long().unbind(1)
    where = (rows[box, 0].long(), anchor, row, column)
    return where, torch.cat([place - cells, size], 1), anchors[anchor] / stride, rows[box, 1].long()


def intersection_over_union(a, b):
    """Of boxes x, y, width, height, minus the share of their hull that neither covers (GIoU)."""
    a0, a1 = a[:, :2] - a[:, 2:] / 2, a[:, :2] + a[:, 2:] / 2
    b0, b1 = b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2
    shared = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp(min=0).prod(1)
    union = a[:, 2:].prod(1) + b[:, 2:].prod(1) - shared + 1e-7
    hull = (torch.maximum(a1, b1) - torch.minimum(a0, b0)).prod(1) + 1e-7
    return shared / union - (hull - union) / hull


def loss_of(maps, rows):
    """Boxes by their overlap, objects and classes by their entropy, as YOLOv5 weighs them for few classes."""
    total = torch.zeros(())
    for level, found in enumerate(maps):
        where, target, anchor, kind = assigned(rows, level, found.shape)
        objects = torch.zeros(found.shape[:4])
        if len(kind):
            chosen = found[where]
            place = chosen[:, :2].sigmoid() * 2 - 0.5
            size = (chosen[:, 2:4].sigmoid() * 2) ** 2 * anchor
            overlap = intersection_over_union(torch.cat([place, size], 1), target)
            total = total + 0.1 * (1 - overlap).mean()
            objects[where] = overlap.detach().clamp(min=0)
            right = F.one_hot(kind, found.shape[-1] - 5).float()
            total = total + 0.1 * F.binary_cross_entropy_with_logits(chosen[:, 5:], right)
        total = total + F.binary_cross_entropy_with_logits(found[..., 4], objects)
    return total


def train(steps=500, pictures=1500, batch=16, seed=0):
    """A network that was trained on drawn pictures."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    drawn = [draw(rng) for _ in range(pictures)]
    network = DetectionModel(NAMES).train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for step in range(steps):
        picked = rng.choice(pictures, batch, replace=False)
        stacked = np.stack([drawn[i][0] for i in picked])
        x = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
        boxes = [
            (n, kind, *(SIDE * value for value in box)) for n, i in enumerate(picked) for kind, *box in drawn[i][1]
        ]
        if rng.random() < 0.5:  # mirrored
            x = x.flip(3)
            boxes = [(n, kind, SIDE - cx, cy, w, h) for n, kind, cx, cy, w, h in boxes]
        loss = loss_of(network(x), torch.tensor(boxes, dtype=torch.float32).view(-1, 6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)
    return network.eval()


def save(network, file):
    """Write what YOLOv5 writes at the end of training: the model itself, in half precision."""
    content = {"epoch": -1, "model": network.half(), "ema": None, "updates": None, "optimizer": None}
    torch.save(content, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("shapes"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=200, help="pictures of the split val; train has as many")
    arguments = parser.parse_args()
    began = time.perf_counter()
    write(arguments.folder, "train", arguments.pictures, seed=1)
    write(arguments.folder, "val", arguments.pictures, seed=2)
    save(train(arguments.steps), arguments.folder / "shapes.pt")
    print(f"{arguments.folder / 'shapes.pt'} and the data set are written; {time.perf_counter() - began:.0f} s")
