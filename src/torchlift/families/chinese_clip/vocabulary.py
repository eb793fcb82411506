"""Finds the vocabulary that belongs to a checkpoint."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from torchlift.errors import CheckpointError
from torchlift.processing.wordpiece import END, PAD, START, UNKNOWN
from torchlift.storage import open_regular

FILE_NAME = "vocab.txt"


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary. ``content`` are the bytes of its file. The position of an entry in ``entries`` is its id."""

    content: bytes
    entries: tuple[str, ...]

    def id_of(self, entry: str) -> int | None:
        return self.entries.index(entry) if entry in self.entries else None

    @property
    def ordinary(self) -> tuple[int, ...]:
        """The ids of ordinary entries: not the padding (0), and not in brackets such as ``[CLS]``."""
        return tuple(i for i, e in enumerate(self.entries) if i and not (e.startswith("[") and e.endswith("]")))


def find_vocabulary(folder: Path, rows: int, given: Path | None = None) -> Vocabulary:
    """Read the vocabulary: the file ``given``, or vocab.txt in ``folder``, or that of an installed cn_clip.

    ``rows`` is the number of rows of the word embeddings. Raises CheckpointError where there is no file, where its
    number of entries differs from ``rows``, where a special entry is missing, and where [PAD] is not the first.
    """
    candidates = [given] if given else [folder / FILE_NAME, _installed()]
    file = next((c for c in candidates if c and c.is_file()), None)
    if file is None:
        where = (
            f"{given} does not exist" if given else f"no {FILE_NAME} was found in {folder} or in an installed cn_clip"
        )
        raise CheckpointError(
            where,
            remedy=f"Name the model's {FILE_NAME} with `vocabulary=`, put it beside the checkpoint, or run: "
            "pip install --no-deps cn_clip.",
        )
    return _read(file, rows)


def _installed() -> Path | None:
    spec = importlib.util.find_spec("cn_clip")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "clip" / FILE_NAME


def _read(file: Path, rows: int) -> Vocabulary:
    try:
        with open_regular(file) as stream:
            content = stream.read()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", remedy="Check the path.") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not UTF-8: {error}", remedy="Give the model's own vocab.txt.") from error
    entries = tuple(entry.rstrip("\r") for entry in text.removesuffix("\n").split("\n"))
    if len(entries) != rows:
        raise CheckpointError(
            f"{file} has {len(entries):,} entries; the checkpoint's word embeddings have {rows:,}",
            remedy="Name the vocab.txt that the model was trained with, with `vocabulary=`.",
        )
    ids = {entry.strip(): index for index, entry in enumerate(entries)}
    missing = [entry for entry in (PAD, UNKNOWN, START, END) if entry not in ids]
    if missing or ids[PAD] != 0:
        problem = f"has no {', '.join(missing)}" if missing else f"has {PAD} as entry {ids[PAD]:,}, it must be entry 0"
        raise CheckpointError(
            f"{file} {problem}", remedy="Name the vocab.txt that the model was trained with, with `vocabulary=`."
        )
    return Vocabulary(content, entries)
