"""Trains a small Swin Transformer on scikit-learn's handwritten digits, on a CPU, and saves it as Microsoft's project
saves its own: a `.pth` file, with the pictures as folders of PNG files beside it.

    python examples/swin/train.py OUTPUT_FOLDER [--steps N] [--seed S]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from torchlift.families.swin.architecture import Architecture
from torchlift.families.swin.network import Swin

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "digits"))
from digits import MEAN, NAMES, RESOLUTION, STD, Plan, Trained, accuracy, load, train, write_folders

ARCHITECTURE = Architecture(
    resolution=RESOLUTION,
    patch=4,
    width=32,
    depths=(2, 2, 1),
    heads=(2, 4, 8),
    windows=(4, 4, 4),
    classes=10,
)
"""A Swin of 0.37 million weights. Its second block of the first two stages has shifted windows."""

PLAN = Plan(steps=200, learning_rate=2e-3, warm_up=60)


def save(trained: Trained, right: float, folder: Path) -> None:
    """Write the checkpoint as Microsoft's training does, the names of the classes, and the preparation of pictures in
    transformers' format: without it they would be cropped as those of ImageNet are.
    """
    content = {
        "model": trained.model.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "max_accuracy": 100 * right,
        "epoch": len(trained.losses),
    }
    torch.save(content, folder / "digits.pth")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    preprocessing = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": RESOLUTION, "width": RESOLUTION},
        "resample": int(Image.Resampling.BILINEAR),
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small Swin Transformer on handwritten digits.")
    parser.add_argument("output", type=Path, help="folder for digits.pth, labels.txt, train/ and val/")
    parser.add_argument("--steps", type=int, default=PLAN.steps, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=PLAN.seed, help="default: %(default)s")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # more hardly speed up so small a model
    plan = replace(PLAN, steps=options.steps, warm_up=min(PLAN.warm_up, options.steps // 2), seed=options.seed)

    digits, held_out = load()
    write_folders(digits, options.output / "train")
    write_folders(held_out, options.output / "val")
    print(f"{options.output}: {len(digits.labels):,} digits in train/, {len(held_out.labels):,} in val/")
    trained = train(lambda: Swin(ARCHITECTURE), plan, digits, held_out)
    right = accuracy(trained.model, held_out)
    save(trained, right, options.output)
    weights = sum(p.numel() for p in trained.model.parameters())
    print(f"{options.output / 'digits.pth'}: {weights:,} weights; right on val/: {right:.1%}")


if __name__ == "__main__":
    main()
