"""Pairs of pictures: small ones in the folder ``lr``, and the same ones large in ``hr``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torchlift.datasets.base import FileImages, Images, ReadOptions, Skips, spread
from torchlift.datasets.labelled import is_image
from torchlift.errors import DataError, some

SMALL, LARGE = "lr", "hr"


@dataclass(frozen=True)
class PicturePairs:
    """Small pictures, and at the same positions what they are when large."""

    kind: ClassVar[str] = "pairs of pictures"
    name: str
    images: Images
    truth: Images
    skips: Skips = field(default_factory=Skips)


def has_picture_pairs(folder: Path) -> bool:
    """Whether a folder has the folders ``lr`` and ``hr``, and no others."""
    return {entry.name.lower() for entry in os.scandir(folder) if entry.is_dir()} == {SMALL, LARGE}


def read_picture_pairs(root: Path, options: ReadOptions) -> PicturePairs:
    """Read pairs by their names without endings: ``lr/0801x4.png`` and ``hr/0801.png`` are one, as in DIV2K.

    Raises DataError where there are none, or where a picture has no other.
    """
    folders = {entry.name.lower(): entry.name for entry in os.scandir(root) if entry.is_dir()}
    small, large = (_by_name(root / folders[kind], kind) for kind in (SMALL, LARGE))
    single = sorted(small.keys() ^ large.keys())
    if single or not small:
        raise DataError(
            f"{root} has pictures of which there is only one: {some(single)}" if single else f"{root} has no pictures",
            remedy=f"Write each picture into {SMALL}/ and {LARGE}/ by the same name.",
        )
    names = sorted(small)
    kept = [names[i] for i in spread(len(names), options.limit)]
    images, truth = (
        FileImages(root, [f"{folders[kind]}/{found[name]}" for name in kept])
        for kind, found in ((SMALL, small), (LARGE, large))
    )
    return PicturePairs(root.name, images, truth, Skips(options.strict))


def _by_name(folder: Path, kind: str) -> dict[str, str]:
    """The name of a pair -> the name of its file."""
    found: dict[str, str] = {}
    for file in sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name)):
        name = Path(file).stem
        name = re.sub(r"[_-]?x\d+$", "", name, flags=re.IGNORECASE) if kind == SMALL else name
        if name in found:
            raise DataError(f"{folder} has {found[name]} and {file}, which are one picture", remedy="Remove one.")
        found[name] = file
    return found
