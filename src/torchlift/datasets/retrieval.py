"""Retrieval data in the formats of Chinese-CLIP's scripts: images as base64, and texts with the images they describe.

A line of ``<split>_imgs.tsv`` is ``id<TAB>base64``. A line of ``<split>_texts.jsonl`` is ``{"text_id", "text",
"image_ids"}``. The LMDB form has images in ``lmdb/<split>/imgs``, and texts as pickles in ``lmdb/<split>/pairs``. The
pickles are read only where there is no jsonl.
"""

from __future__ import annotations

import base64
import binascii
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from torchlift.datasets.base import Images, ReadOptions, Skips, chosen_split, lines_of, spread
from torchlift.datasets.database import DATABASE, Database
from torchlift.datasets.records import unpickled
from torchlift.datasets.results import write_json_lines, write_lines
from torchlift.errors import DataError, UnsafeDataError
from torchlift.storage import open_regular

IMAGES, TEXTS = "_imgs.tsv", "_texts.jsonl"

_LARGEST = 2**63 - 1

_URL_SAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True)
class Text:
    """A text and the images that it describes."""

    id: int
    text: str
    image_ids: tuple[int, ...]


@dataclass(frozen=True)
class RetrievalData:
    """Images and the texts that describe them. A text may name images that are not in the data."""

    kind: ClassVar[str] = "retrieval"
    name: str
    split: str
    images: Images
    texts: tuple[Text, ...]
    skips: Skips = field(default_factory=Skips)


class TsvImages(Images):
    """Images of a .tsv file. Each is found by the offset and the length of its base64, in bytes."""

    def __init__(self, file: Path, ids: Sequence[int], offsets: Sequence[int], lengths: Sequence[int]) -> None:
        self._file = file
        self.ids = ids
        self._offsets = offsets
        self._lengths = lengths

    def read(self, position: int) -> bytes:
        try:
            with open_regular(self._file) as stream:
                stream.seek(self._offsets[position])
                data = stream.read(self._lengths[position])
        except OSError as error:
            raise DataError(f"{self._file} cannot be read: {error.strerror}", remedy="Check the file.") from error
        return _decoded(data, self.name(position))

    def kept(self, positions: Sequence[int]) -> TsvImages:
        columns = (self.ids, self._offsets, self._lengths)
        return TsvImages(self._file, *([int(column[i]) for i in positions] for column in columns))


class LmdbImages(Images):
    """Images of ``lmdb/<split>/imgs``, whose keys are decimal ids and whose values are base64."""

    def __init__(self, database: Database, ids: Sequence[int]) -> None:
        self._database = database
        self.ids = ids

    def read(self, position: int) -> bytes:
        return _decoded(self._database.get(str(self.ids[position]).encode()), self.name(position))

    def kept(self, positions: Sequence[int]) -> LmdbImages:
        return LmdbImages(self._database, [int(self.ids[i]) for i in positions])


def retrieval_splits(folder: Path) -> set[str]:
    """The splits of retrieval data in a folder; empty where it is another kind of data set."""
    flat = {file.name.removesuffix(end) for end in (IMAGES, TEXTS) for file in folder.glob(f"*{end}")}
    return flat | {file.parents[1].name for file in folder.glob(f"lmdb/*/imgs/{DATABASE}")}


def read_retrieval(folder: Path, options: ReadOptions) -> RetrievalData:
    """Index the images and read the texts of a split. Raises DataError, UnsafeDataError."""
    split, skips = chosen_split(folder, retrieval_splits(folder), options.split), Skips(options.strict)
    texts = _read_texts(folder, split, skips, options.trust_pickle)
    images = _read_images(folder, split, skips)
    name = f"{folder.name}/{split}"
    if not texts or not len(images):
        raise DataError(
            f"{name} has {len(texts):,} texts and {len(images):,} images{'; ' * bool(skips.count)}{skips}",
            remedy="Retrieval needs both.",
        )
    if options.limit is not None and options.limit < len(texts):
        texts = [texts[i] for i in spread(len(texts), options.limit)]
        wanted = {image for text in texts for image in text.image_ids}
        named = [i for i, image in enumerate(images.ids) if image in wanted]
        images = images.kept(named or spread(len(images), options.limit))
    return RetrievalData(name, split, images, tuple(texts), skips)


def write_retrieval(
    folder: Path, split: str, images: Iterable[tuple[int, bytes]], texts: Iterable[Text]
) -> tuple[Path, Path]:
    """Write a split as .tsv and .jsonl; returns both files.

    ``images`` are pairs of an id and the bytes of an image file. They are consumed one at a time. Raises StorageError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / f"{split}{IMAGES}", folder / f"{split}{TEXTS}"
    write_lines(files[0], (f"{image}\t{base64.b64encode(data).decode()}" for image, data in images))
    write_json_lines(
        files[1], ({"text_id": t.id, "text": t.text, "image_ids": [*t.image_ids]} for t in texts), ensure_ascii=False
    )
    return files


def _read_images(folder: Path, split: str, skips: Skips) -> Images:
    file, database = folder / f"{split}{IMAGES}", folder / "lmdb" / split / "imgs"
    if file.is_file():
        return _index_tsv(file, skips)
    if (database / DATABASE).is_file():
        return _index_lmdb(database, skips)
    raise DataError(f"split {split} of {folder} has texts but no images", remedy=f"Expected is {file} or {database}.")


def _index_tsv(file: Path, skips: Skips) -> TsvImages:
    ids, offsets, lengths = array("q"), array("q"), array("q")
    seen: set[int] = set()

    def parse(line: bytes, offset: int) -> None:
        number, tab, data = line.partition(b"\t")
        if not tab:
            raise ValueError("no tab between an id and an image")
        image = _image_id(number)
        _once(image, seen, f"image id {image}", file)
        ids.append(image)
        offsets.append(offset + len(number) + len(tab))
        lengths.append(len(data.rstrip(b"\r\n")))

    lines_of(file, parse, skips)
    return TsvImages(file, ids, offsets, lengths)


def _index_lmdb(folder: Path, skips: Skips) -> LmdbImages:
    database, ids = Database(folder), []
    for key in database.samples():
        try:
            ids.append(_image_id(key))
        except ValueError as error:
            skips.add(f"lmdb, key {key!r}: {error}")
    return LmdbImages(database, ids)


def _image_id(text: bytes) -> int:
    if not text.strip().isdigit() or int(text) > _LARGEST:
        raise ValueError(f"the image id {text[:20].decode('utf-8', 'replace')!r} is not a whole number below 2^63")
    return int(text)


def _read_texts(folder: Path, split: str, skips: Skips, trust_pickle: bool) -> list[Text]:
    file, database = folder / f"{split}{TEXTS}", folder / "lmdb" / split / "pairs"
    if file.is_file():
        texts: list[Text] = []
        lines_of(file, partial(_parse_text, texts=texts, seen=set(), file=file), skips)
        return texts
    if not (database / DATABASE).is_file():
        raise DataError(
            f"split {split} of {folder} has images but no texts", remedy=f"Expected is {file} or {database}."
        )
    if not trust_pickle:
        raise UnsafeDataError(
            f"{database} holds pickles, which may run code; none was read",
            remedy=f"Put {file.name}, from which it was made, into {folder}; or, where you made it yourself, read with "
            "`trust_pickle=`.",
        )
    return _read_pairs(database, skips)


def _parse_text(line: bytes, offset: int, texts: list[Text], seen: set[int], file: Path) -> None:
    record = json.loads(line)
    match record:
        case {"text_id": int(number), "text": str(text), "image_ids": list(images)} if all(
            type(image) is int for image in (number, *images)
        ):
            _once(number, seen, f"text id {number}", file)
            texts.append(Text(number, text, tuple(dict.fromkeys(images))))
        case _:
            raise ValueError("it is not {text_id: whole number, text: string, image_ids: list of whole numbers}")


def _read_pairs(folder: Path, skips: Skips) -> list[Text]:
    """The texts of (image id, text id, text) pairs, in the order of the pairs' numbers."""
    found: dict[int, tuple[str, list[int]]] = {}
    for key, value in sorted(Database(folder).items(), key=lambda item: (len(item[0]), item[0])):
        try:
            match unpickled(value, f"{folder.name} {key!r}", trust=True):
                case (int(image), int(number), str(text)):
                    found.setdefault(number, (text, []))[1].append(image)
                case _:
                    raise ValueError("it is not (image id, text id, text)")
        except ValueError as error:
            skips.add(f"pairs, key {key!r}: {error}")
    return [Text(number, text, tuple(dict.fromkeys(images))) for number, (text, images) in found.items()]


def _once(number: int, seen: set[int], what: str, file: Path) -> None:
    if number in seen:
        raise DataError(f"{file} has {what} twice", remedy="Give every record an id of its own.")
    seen.add(number)


def _decoded(data: bytes, what: str) -> bytes:
    """Decode base64 of either alphabet, padded or not. Raises DataError."""
    data = data.translate(_URL_SAFE).strip().rstrip(b"=")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise DataError(f"{what} is broken base64: {error}", remedy="Encode the image again.") from error
