"""Trains a small MobileViT on scikit-learn's handwritten digits, on a CPU, and saves it as the reference project saves
its own: a `.pth.tar` file, with the pictures as folders of PNG files beside it.

    python examples/digits/train.py OUTPUT_FOLDER [--steps N] [--seed S]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from digits import MEAN, NAMES, RESOLUTION, STD, Plan, Trained, accuracy, load, train, write_folders
from torchlift.families.mobilevit.architecture import Architecture
from torchlift.families.mobilevit.network import MobileViT

ARCHITECTURE = Architecture(
    channels=(8, 16, 24, 24, 32, 32, 48, 48, 64, 64, 128),
    widths=(32, 48, 64),
    feed_forward=(64, 96, 128),
    expansion=2,
    layers=(2, 2, 2),
    head=32,
    classes=10,
)
"""A MobileViT of 0.35 million weights: about half as wide as the smallest published one, with as many stages."""


def save(trained: Trained, right: float, folder: Path) -> None:
    """Write the checkpoint as the reference's training does (keys with ``module.``, accuracy in percent), the names of
    the classes, and the size of the pictures, which no weight tells, in transformers' format.
    """
    state = {f"module.{name}": tensor for name, tensor in trained.model.state_dict().items()}
    content = {
        "epoch": len(trained.losses),
        "state_dict": state,
        "best_acc1": 100 * right,
        "optimizer": trained.optimizer.state_dict(),
    }
    torch.save(content, folder / "digits.pth.tar")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    preprocessing = {
        "size": {"height": RESOLUTION, "width": RESOLUTION},
        "resample": int(Image.Resampling.BILINEAR),
        "do_center_crop": False,
        "do_flip_channel_order": False,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    plan = Plan()
    parser = argparse.ArgumentParser(description="Train a small MobileViT on handwritten digits.")
    parser.add_argument("output", type=Path, help="folder for digits.pth.tar, labels.txt, train/ and val/")
    parser.add_argument("--steps", type=int, default=plan.steps, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=plan.seed, help="default: %(default)s")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # more hardly speed up so small a model
    plan = replace(plan, steps=options.steps, warm_up=min(plan.warm_up, options.steps // 2), seed=options.seed)

    digits, held_out = load()
    write_folders(digits, options.output / "train")
    write_folders(held_out, options.output / "val")
    print(f"{options.output}: {len(digits.labels):,} digits in train/, {len(held_out.labels):,} in val/")
    trained = train(lambda: MobileViT(ARCHITECTURE), plan, digits, held_out)
    right = accuracy(trained.model, held_out)
    save(trained, right, options.output)
    weights = sum(p.numel() for p in trained.model.parameters())
    print(f"{options.output / 'digits.pth.tar'}: {weights:,} weights; right on val/: {right:.1%}")


if __name__ == "__main__":
    main()
