"""Pictures with boxes: YOLO's folders of labels with a data.yaml, and COCO's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from torchlift.datasets.base import LARGEST, FileImages, Images, ReadOptions, Skips, chosen_split, spread
from torchlift.datasets.labelled import is_image
from torchlift.errors import DataError
from torchlift.storage import open_regular

YAML = "data.yaml"

SPLITS = ("train", "val", "valid", "test")
"""What a data.yaml may name."""


@dataclass(frozen=True)
class Truth:
    """The boxes of a picture: ``boxes`` float64 [n, 4], x0, y0, x1, y1; ``classes`` int64 [n]; ``crowds`` bool [n]."""

    boxes: np.ndarray
    classes: np.ndarray
    crowds: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]]) -> Truth:
        """Of rows x0, y0, x1, y1, class and whether it is a crowd."""
        table = np.array(rows, np.float64).reshape(-1, 6)
        return cls(table[:, :4], table[:, 4].astype(np.int64), table[:, 5].astype(bool))


@dataclass(frozen=True)
class BoxData:
    """Pictures with their boxes, in the same order; in shares of each picture's width and height where they are
    ``relative``, else in pixels. ``names`` are those of the classes. ``found`` is the folder of the pictures, where the
    data do not name it.
    """

    kind: ClassVar[str] = "detection"
    name: str
    images: Images
    truths: tuple[Truth, ...]
    names: tuple[str, ...]
    relative: bool
    skips: Skips = field(default_factory=Skips)
    found: Path | None = None


def read_yolo(file: Path, options: ReadOptions) -> BoxData:
    """Open a data.yaml: ``path``, ``train``, ``val``, ``test`` (a folder, a .txt of files, or a list of these), ``nc``
    and ``names``. The labels of images/a.jpg are in labels/a.txt: a line ``class x y width height`` in shares for each
    box; of more numbers, which are a polygon, the box around it is taken.

    Raises DataError where it has no such split, or no pictures are there.
    """
    said = _yaml(file)
    names = _names(file, said)
    splits = [name for name in SPLITS if said.get(name)]
    split = chosen_split(file, splits, options.split)
    root = _root(file, said)
    skips = Skips(options.strict)
    found = _pictures(file, root, said[split])
    kept = [found[i] for i in spread(len(found), options.limit)]
    paths, truths = [], []
    for path in kept:
        paths.append(str(path))
        truths.append(_labels(path, len(names), skips))
    return BoxData(f"{file.parent.name}/{split}", FileImages(Path(), paths), tuple(truths), names, True, skips)


def yolo_splits(file: Path) -> set[str]:
    """The splits that a data.yaml names and that are there; none where it cannot be read. Of a data set that was
    copied for its split ``val`` alone, ``train`` is not there.
    """
    try:
        said = _yaml(file)
    except DataError:
        return set()
    root, there = _root(file, said), set()
    for name in SPLITS:
        places = said[name] if isinstance(said.get(name), list) else [said.get(name)]
        if all(one and ((root / str(one)).exists() or (file.parent / str(one)).exists()) for one in places):
            there.add(name)
    return there


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        with open_regular(file) as stream:
            said = yaml.safe_load(stream.read(LARGEST).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file} cannot be read: {error}", remedy="Write it as YOLO's data.yaml.") from error
    if not isinstance(said, dict):
        raise DataError(f"{file} is no mapping", remedy="Write path, val and names, as YOLO's data.yaml has them.")
    return said


def _names(file: Path, said: Mapping[str, Any]) -> tuple[str, ...]:
    names = said.get("names")
    if isinstance(names, dict) and {*names} == {*range(len(names))}:
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file} names no classes", remedy="Write names as a list, or as 0: person, 1: car, ...")
    if "nc" in said and said["nc"] != len(names):
        raise DataError(f"{file} says nc {said['nc']} and has {len(names)} names", remedy="Make them agree.")
    return tuple(str(name) for name in names)


def _root(file: Path, said: Mapping[str, Any]) -> Path:
    """The folder that the splits are in: ``path``, which counts from the file's own folder."""
    root = file.parent / str(said.get("path") or ".")
    return root if root.is_dir() else file.parent


def _pictures(file: Path, root: Path, said: Any) -> list[Path]:
    """The pictures of a split, sorted. Raises DataError where there are none."""
    found: list[Path] = []
    for one in said if isinstance(said, list) else [said]:
        place = root / str(one)
        if not place.exists():
            place = file.parent / str(one)
        if place.is_dir():
            found += [path for path in place.rglob("*") if is_image(path.name)]
        elif place.suffix == ".txt" and place.is_file():
            with open_regular(place) as stream:
                lines = stream.read(LARGEST).decode("utf-8-sig").splitlines()
            found += [place.parent / line.strip() for line in lines if line.strip()]
        else:
            raise DataError(
                f"{file} names {one}, and {root / str(one)} is neither a folder nor a .txt file",
                remedy="Check path and the splits in it: they count from the folder of data.yaml.",
            )
    if not found:
        raise DataError(f"{file} names {said}, where there are no pictures", remedy="Check path and the splits in it.")
    return sorted(found)


def _labels(picture: Path, classes: int, skips: Skips) -> Truth:
    """The boxes of a picture; none where it has no file of labels, since it is background then."""
    parts = list(picture.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    file = Path(*parts).with_suffix(".txt")
    try:
        with open_regular(file) as stream:
            lines = stream.read(LARGEST).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return Truth.of([])
    except OSError as error:
        skips.add(f"{file} cannot be read: {error.strerror}")
        return Truth.of([])
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(_row(line.split(), classes))
            except ValueError as error:
                skips.add(f"{file.name}, line {number}: {error}")
    return Truth.of(list(dict.fromkeys(rows)))


def _row(words: Sequence[str], classes: int) -> tuple[float, ...]:
    """A line of labels as x0, y0, x1, y1, class and 0, clipped to the picture. Raises ValueError for what is no box."""
    numbers = [float(word) for word in words]
    if len(numbers) < 5 or not np.isfinite(numbers).all():
        raise ValueError("a box is: class x y width height")
    kind, *rest = numbers
    if not kind.is_integer() or not 0 <= kind < classes:
        raise ValueError(f"class {kind:g} is outside 0..{classes - 1}")
    if len(rest) >= 6:
        xs, ys = rest[0 : len(rest) // 2 * 2 : 2], rest[1::2]
        x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
    else:
        x, y, width, height = rest[:4]
        x0, y0, x1, y1 = x - width / 2, y - height / 2, x + width / 2, y + height / 2
    clipped = [min(max(edge, 0.0), 1.0) for edge in (x0, y0, x1, y1)]
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise ValueError("the box is empty, or outside the picture")
    return (*clipped, kind, 0.0)


def read_coco(file: Path, said: Mapping[str, Any], options: ReadOptions) -> BoxData:
    """Open COCO's annotations, which were read from ``file`` already. The pictures are in the folder ``images`` beside
    the file or beside its folder, in the folder that is called as the file after its ``instances_``, or beside it.

    Raises DataError for annotations that do not hold together.
    """
    try:
        names = {int(c["id"]): str(c["name"]) for c in said["categories"]}
        pictures = {i["id"]: (str(i["file_name"]), int(i["width"]), int(i["height"])) for i in said["images"]}
        annotations = [(a["image_id"], a) for a in said["annotations"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file} is no COCO annotation file: {type(error).__name__} {error}",
            remedy="It must have images, annotations and categories.",
        ) from error
    numbers = {identity: number for number, identity in enumerate(sorted(names))}
    skips = Skips(options.strict)
    rows: dict[Any, list[tuple[float, ...]]] = {identity: [] for identity in pictures}
    for image, annotation in annotations:
        try:
            if image not in rows:
                raise ValueError(f"there is no image {image!r}")
            rows[image].append(_coco_row(annotation, numbers, pictures[image]))
        except (ValueError, KeyError, TypeError) as error:
            skips.add(f"{file.name}, annotation {annotation.get('id')}: {error}")
    folder = _coco_folder(file, [name for name, _, _ in pictures.values()])
    order = [*pictures]
    kept = [order[i] for i in spread(len(order), options.limit)]
    images = FileImages(folder, [pictures[identity][0] for identity in kept])
    truths = tuple(Truth.of(rows[identity]) for identity in kept)
    return BoxData(file.stem, images, truths, tuple(names[i] for i in sorted(names)), False, skips, folder)


def _coco_row(
    annotation: Mapping[str, Any], numbers: Mapping[int, int], picture: tuple[str, int, int]
) -> tuple[float, ...]:
    x, y, width, height = (float(value) for value in annotation["bbox"])
    kind = annotation["category_id"]
    if kind not in numbers:
        raise ValueError(f"there is no category {kind!r}")
    if not np.isfinite([x, y, width, height]).all() or width <= 0 or height <= 0:
        raise ValueError("the box is empty")
    if x >= picture[1] or y >= picture[2] or x + width <= 0 or y + height <= 0:
        raise ValueError("the box is outside the picture")
    return (x, y, x + width, y + height, float(numbers[kind]), float(bool(annotation.get("iscrowd", 0))))


def _coco_folder(file: Path, names: Sequence[str]) -> Path:
    """The folder that has the first picture. Raises DataError where none of the usual has it."""
    split = file.stem.removeprefix("instances_")
    places = [
        base / name for base in (file.parent, file.parent.parent) for name in ("images", split, f"images/{split}", ".")
    ]
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{file} names the picture {name!r}, outside its folder", remedy="Do not use this file.")
    for place in places:
        if names and (place / names[0]).is_file():
            return place
    raise DataError(
        f"the pictures of {file} are not there: no {names[0] if names else 'picture'} in "
        f"{', '.join(map(str, places[:4]))}",
        remedy=f"Put them into {places[0]}.",
    )
