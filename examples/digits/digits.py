"""scikit-learn's handwritten digits as pictures, and the training of any classifier on them. On a CPU, in minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

RESOLUTION = 64
"""Side of the pictures, in pixels; the digits are scanned at 8 x 8 and enlarged."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in ImageNet. Pictures are normalised with them."""

NAMES = tuple(str(digit) for digit in range(10))

SPLIT_SEED = 0
"""Decides which digits are held out, so that no model is ever trained on them, whatever its own seed."""


@dataclass(frozen=True)
class Plan:
    """How long to train and how fast to learn."""

    steps: int = 240
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warm_up: int = 40
    smoothing: float = 0.05
    seed: int = 0


# The data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Grey pictures uint8 [N, RESOLUTION, RESOLUTION] and what is on each, int64 [N]."""

    pictures: np.ndarray
    labels: np.ndarray


def load() -> tuple[Digits, Digits]:
    """The digits to train with (1,198) and those held out (599), each class in both as often as in all."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train, held_out = train_test_split(
        np.arange(len(data.target)), test_size=1 / 3, random_state=SPLIT_SEED, stratify=data.target
    )
    pictures = np.stack([enlarged(image) for image in data.images])
    labels = data.target.astype(np.int64)
    return Digits(pictures[train], labels[train]), Digits(pictures[held_out], labels[held_out])


def enlarged(image: np.ndarray) -> np.ndarray:
    """A scan, float64 [8, 8] with ink 0..16, as a white digit on black: uint8 [RESOLUTION, RESOLUTION]."""
    grey = Image.fromarray((image * 255 / 16).round().astype(np.uint8))
    return np.asarray(grey.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC))


def normalised(pictures: Tensor) -> Tensor:
    """uint8 [N, H, W] -> float32 [N, 3, H, W], as the model takes them."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pictures[:, None].expand(-1, 3, -1, -1) / 255 - mean) / std


def moved(pictures: Tensor) -> Tensor:
    """Each picture a little turned, scaled, slanted and shifted: uint8 [N, H, W] -> float32 [N, H, W] in 0..255."""
    count = len(pictures)
    turn = torch.empty(count).uniform_(-0.2, 0.2)
    scale, slant = torch.empty(2, count).uniform_(-0.12, 0.12)
    shift = torch.empty(count, 2).uniform_(-0.12, 0.12)
    cos, sin = (1 + scale) * turn.cos(), (1 + scale) * turn.sin()
    rows = torch.stack([torch.stack([cos, slant - sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(rows, [count, 1, *pictures.shape[1:]], align_corners=False)
    return F.grid_sample(pictures[:, None].float(), grid, align_corners=False)[:, 0]


def write_folders(digits: Digits, folder: Path) -> None:
    """Write the pictures as ``folder/<digit>/<number>.png``, the format of torchvision's ImageFolder."""
    for name in NAMES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (picture, label) in enumerate(zip(digits.pictures, digits.labels, strict=True)):
        Image.fromarray(picture).save(folder / NAMES[label] / f"{number:04}.png")


# Training -------------------------------------------------------------------------------------------------------------


def rate(step: int, plan: Plan) -> float:
    """The share of the learning rate at a step, counted from 0: up in a line, then down in half a cosine."""
    if step < plan.warm_up:
        return (step + 1) / plan.warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (step - plan.warm_up) / (plan.steps - plan.warm_up))


@dataclass(frozen=True)
class Trained:
    """The model in eval mode, its optimizer, and the loss of every step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float]


def train(
    build: Callable[[], nn.Module], plan: Plan, digits: Digits, held_out: Digits, every_s: float = 10.0
) -> Trained:
    """Train what ``build`` makes, pictures float32 [N, 3, H, W] to logits [N, 10], and print the loss and the accuracy
    on what is held out every ``every_s`` seconds.
    """
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, plan))
    pictures, labels = torch.from_numpy(digits.pictures), torch.from_numpy(digits.labels)
    losses: list[float] = []
    start = last = time.perf_counter()
    for step in range(1, plan.steps + 1):
        chosen = torch.from_numpy(rng.choice(len(pictures), plan.batch, replace=False))
        logits = model(normalised(moved(pictures[chosen])))
        loss = F.cross_entropy(logits, labels[chosen], label_smoothing=plan.smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if time.perf_counter() - last > every_s:
            last = time.perf_counter()
            right = f"{accuracy(model, held_out):.1%}"
            print(f"{last - start:4.0f} s  step {step}/{plan.steps}  loss {np.mean(losses[-10:]):.3f}  right {right}")
    return Trained(model.eval(), optimizer, losses)


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """The share of pictures whose digit has the largest logit; the model is left in the mode that it was in."""
    training = model.training
    model.eval()
    batches = torch.from_numpy(digits.pictures).split(100)
    best = torch.cat([model(normalised(batch)).argmax(1) for batch in batches])
    model.train(training)
    return float((best.numpy() == digits.labels).mean())
