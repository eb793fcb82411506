"""Images in folders: one folder for each class, with Chinese labels or without, or images without labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from torchlift.datasets.base import SPLITS, FileImages, Images, ReadOptions, Skips, chosen_split, spread
from torchlift.errors import DataError
from torchlift.storage import open_regular

LABELS = "label_cn.txt"

TRAIN = "train"
"""The split that is calibrated on, and never scored unless it is named."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})

PROMPTS = (
    "{}",
    "一张{}的照片",
    "照片里有{}",
    "这张图片拍的是{}",
    "画面中可以看到{}",
    "一幅{}的图像",
    "一张清楚的{}图片",
)
"""The default prompts for zero-shot classification. The label takes the place of ``{}``."""


@dataclass(frozen=True)
class ImageData:
    """Images without labels: for calibration, and to compare a model with PyTorch."""

    kind: ClassVar[str] = "images"
    name: str
    images: Images
    skips: Skips = field(default_factory=Skips)


@dataclass(frozen=True)
class LabelledData:
    """Images with their classes.

    ``labels`` are int64 [N]. ``classes`` are the names of the folders, sorted; empty where classes have only numbers.
    """

    kind: ClassVar[str] = "classification"
    name: str
    images: Images
    labels: np.ndarray
    classes: tuple[str, ...] = ()
    skips: Skips = field(default_factory=Skips)


@dataclass(frozen=True)
class ZeroShotData(LabelledData):
    """Images with their classes, a Chinese caption for each class, and the prompts that captions are put into."""

    kind: ClassVar[str] = "zero-shot"
    captions: tuple[str, ...] = ()
    prompts: tuple[str, ...] = PROMPTS

    @property
    def texts(self) -> tuple[str, ...]:
        """All prompts with all captions: first those of the first class, then those of the second, and so on."""
        return tuple(prompt.replace("{}", caption) for caption in self.captions for prompt in self.prompts)


def read_folder(root: Path, options: ReadOptions) -> ImageData | LabelledData:
    """Open a folder of images.

    With class folders and ``label_cn.txt`` it is ZeroShotData, with class folders alone LabelledData, otherwise
    ImageData. The class folders may lie in one folder for each split. Raises DataError where there are no images.
    """
    folder = _split_folder(root, options.split)
    name = root.name if folder == root else f"{root.name}/{folder.name}"
    classes = _folders(folder)
    if not classes:
        return _unlabelled(folder, name, options)
    found = [(label, path) for label, kind in enumerate(classes) for path in _class_images(folder, kind)]
    kept = [found[i] for i in spread(len(found), options.limit)]
    images, labels = FileImages(folder, [path for _, path in kept]), np.array([label for label, _ in kept], np.int64)
    captions = next((file for file in (folder / LABELS, root / LABELS) if file.is_file()), None)
    if captions is None:
        return LabelledData(name, images, labels, tuple(classes), Skips(options.strict))
    return ZeroShotData(
        name,
        images,
        labels,
        tuple(classes),
        Skips(options.strict),
        _captions(captions, classes),
        read_prompts(options.prompts) if options.prompts else PROMPTS,
    )


def image_splits(root: Path) -> set[str]:
    """The splits of a folder of images, where it has a split ``train`` with images in it; else none."""
    train = root / TRAIN
    if not train.is_dir() or not any(child.is_dir() or is_image(child.name) for child in train.iterdir()):
        return set()
    return {TRAIN, *(name for name in SPLITS if (root / name).is_dir())}


def read_prompts(file: Path) -> tuple[str, ...]:
    """Read prompts from a file, one a line. Raises DataError for a prompt without a place for the label."""
    prompts = _lines(file)
    for number, prompt in enumerate(prompts, 1):
        if "{}" not in prompt:
            raise DataError(
                f"{file}, line {number}: the prompt {prompt!r} has no {{}}", remedy="Put {} where the label goes."
            )
    if not prompts:
        raise DataError(f"{file} has no prompts", remedy="Write one a line, with {} where the label goes.")
    return tuple(prompts)


def _captions(file: Path, classes: Sequence[str]) -> tuple[str, ...]:
    captions = _lines(file)
    if len(captions) != len(classes):
        raise DataError(
            f"{file} has {len(captions):,} labels for {len(classes):,} class folders",
            remedy=f"Write one label a line, in the order of the sorted folders: {_some(classes)}.",
        )
    return tuple(captions)


def _lines(file: Path) -> list[str]:
    """The lines of a file that are not blank, stripped. Raises DataError where it cannot be read."""
    try:
        with open_regular(file) as stream:
            text = stream.read().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", remedy="Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error.reason}", remedy="Save it as UTF-8.") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def _split_folder(root: Path, asked: str) -> Path:
    """The folder that holds the class folders: ``root``, or the folder of a split in it."""
    names = _folders(root)
    if not asked and not ({*names} and {*names} <= {*SPLITS, TRAIN}):
        return root
    return root / chosen_split(root, names, asked)


def _unlabelled(folder: Path, name: str, options: ReadOptions) -> ImageData:
    ids = sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name))
    if not ids:
        raise _unknown(folder)
    return ImageData(name, FileImages(folder, [ids[i] for i in spread(len(ids), options.limit)]), Skips(options.strict))


def _class_images(folder: Path, kind: str) -> list[str]:
    """The image files of a class, at any depth, as sorted paths within ``folder``."""
    paths = [
        Path(where, file).relative_to(folder).as_posix()
        for where, _, files in os.walk(folder / kind)
        for file in files
        if is_image(file)
    ]
    if not paths:
        raise DataError(
            f"the class folder {folder / kind} has no images",
            remedy=f"Put images into it ({', '.join(sorted(SUFFIXES))}), or remove it: every folder is a class.",
        )
    return sorted(paths)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _unknown(folder: Path) -> DataError:
    found = sorted(entry.name for entry in os.scandir(folder))
    return DataError(
        f"{folder} is no data set that is known: it has {_some(found) if found else 'nothing'}",
        remedy="Expected are <split>_imgs.tsv with <split>_texts.jsonl, lmdb/<split>/imgs, a folder a class (with "
        f"{LABELS} for zero-shot), an LMDB of (image, label), or just images.",
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + f" and {len(names) - 5:,} more" * (len(names) > 5)
