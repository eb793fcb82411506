"""Trains an SRCNN on photographs that scikit-learn and scikit-image carry, and writes what a user of torchlift has.

    python examples/super_resolution/train.py super/

writes ``super/srcnn.pth``, in mmagic's format, and ``super/test/``, parts of photographs that it did not train on.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from torchlift.processing.resizing import imresize
from torchlift.tasks.fidelity import psnr

FACTORS = (2, 3, 4)
CARRIED = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
"""Colour photographs in the wheel of scikit-image."""

PATCH = 48
"""Pixels of a side of a true training picture, which every factor divides."""


def photographs() -> dict[str, np.ndarray]:
    """Name -> uint8 [H, W, 3]: two of scikit-learn, and those of scikit-image where it is installed."""
    from sklearn.datasets import load_sample_image

    found = {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    if spec := importlib.util.find_spec("skimage"):
        assert spec.origin is not None
        for name in CARRIED:
            with Image.open(Path(spec.origin).parent / "data" / name) as opened:
                found[Path(name).stem] = np.asarray(opened.convert("RGB"))
    return found


def split(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The left two thirds of a photograph, to train on, and 120 rows and columns of the rest, to test."""
    edge = 2 * pixels.shape[1] // 3
    top = (pixels.shape[0] - 120) // 2
    return pixels[:, :edge], pixels[top : top + 120, edge : edge + 120]


def network(first: int, second: int) -> nn.Sequential:
    """Three convolutions that begin by passing colours on as they are, so that training begins at bicubic's quality."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, first, 9, padding=4), nn.Conv2d(first, second, 1), nn.Conv2d(second, 3, 5, padding=2)]
    with torch.no_grad():
        for layer in layers:
            middle = layer.kernel_size[0] // 2
            layer.weight[:3] *= 0
            if layer is not layers[0]:
                layer.weight[:, :3] *= 0
            layer.weight[range(3), range(3), middle, middle] = 1
            layer.bias.zero_()
        layers[2].weight[:, 3:] *= 0.1
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def enlarged(small: Tensor, factor: int) -> Tensor:
    """Bicubic, as it is in the network: [batch, 3, H, W] to [batch, 3, factor * H, factor * W]."""
    size = (small.shape[2] * factor, small.shape[3] * factor)
    return F.interpolate(small, size=size, mode="bicubic", align_corners=False)


def tensor(pixels: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] as float32 [3, H, W], 0 to 1."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255


def train(net: nn.Sequential, photos: Sequence[np.ndarray], steps: int, batch: int = 8) -> None:
    """Teach a network to undo imresize at all factors."""
    rng = np.random.default_rng(0)
    pairs = []
    for photo in photos:
        for factor in FACTORS:
            height, width = photo.shape[0] // factor, photo.shape[1] // factor
            true = photo[: height * factor, : width * factor]
            pairs.append((factor, tensor(imresize(true, height, width)), tensor(true)))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for step in range(steps):
        of = FACTORS[step % len(FACTORS)]
        drawn = [pairs[i] for i in rng.integers(len(photos), size=batch) * len(FACTORS) + FACTORS.index(of)]
        smalls, trues = [], []
        for factor, small, true in drawn:
            side = PATCH // factor
            y, x = (int(rng.integers(length - side + 1)) for length in small.shape[1:])
            smalls.append(small[:, y : y + side, x : x + side])
            trues.append(true[:, y * factor : y * factor + PATCH, x * factor : x * factor + PATCH])
        found = net(enlarged(torch.stack(smalls), of))
        inner = (..., slice(6, -6), slice(6, -6))
        loss = F.mse_loss(found[inner], torch.stack(trues)[inner])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def gain(net: nn.Sequential, photos: Sequence[np.ndarray], factor: int = 3) -> tuple[float, float]:
    """PSNR in dB of the network, and of MATLAB's bicubic, in the mean over photographs."""
    ours, bicubic = [], []
    for photo in photos:
        height, width = photo.shape[0] // factor, photo.shape[1] // factor
        true = photo[: height * factor, : width * factor]
        small = imresize(true, height, width)
        with torch.no_grad():
            found = net(enlarged(tensor(small)[None], factor))[0]
        pixels = (found * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        inner = (slice(factor, -factor), slice(factor, -factor))
        ours.append(psnr(pixels[inner], true[inner]))
        bicubic.append(psnr(imresize(small, *true.shape[:2])[inner], true[inner]))
    return float(np.mean(ours)), float(np.mean(bicubic))


def save(net: nn.Sequential, file: Path) -> None:
    """Write the weights as mmagic does."""
    names = {"0": "conv1", "2": "conv2", "4": "conv3"}
    state = {}
    for name, value in net.state_dict().items():
        layer, part = name.split(".")
        state[f"generator.{names[layer]}.{part}"] = value.clone()
    torch.save({"meta": {}, "state_dict": state}, file)


def make(folder: Path, steps: int = 400, first: int = 32, second: int = 16) -> tuple[float, float]:
    """Train, and write the checkpoint and the test pictures; the PSNR of the network and of bicubic at x3."""
    parts = {name: split(photo) for name, photo in photographs().items()}
    net = network(first, second)
    train(net, [taught for taught, _ in parts.values()], steps)
    (folder / "test").mkdir(parents=True, exist_ok=True)
    save(net, folder / "srcnn.pth")
    for name, (_, held) in parts.items():
        Image.fromarray(held).save(folder / "test" / f"{name}.png")
    return gain(net, [held for _, held in parts.values()])


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args()
    began = time.monotonic()
    ours, bicubic = make(asked.folder, asked.steps)
    print(f"x3: {ours:.2f} dB, bicubic {bicubic:.2f} dB; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
