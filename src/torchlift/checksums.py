"""Whether files are the bytes that a manifest lists, by their SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from torchlift.folder import Folder
from torchlift.machine import usable_cores
from torchlift.manifest import FileRecord


class Checksums:
    """Compares the files of a folder with what a manifest says of them, and remembers which are known to be right.

    Every method that compares returns what is wrong in words, for example ``a/model.onnx is missing``; empty is right.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._right: set[tuple[str, FileRecord]] = set()

    def knows(self, path: str, record: FileRecord) -> bool:
        """Whether the file was compared with this record before, and was right."""
        return (path, record) in self._right

    def written(self, files: Mapping[str, FileRecord]) -> None:
        """Take files for right, since this process wrote them and made their records."""
        self._right |= {*files.items()}

    def compare(self, files: Mapping[str, FileRecord]) -> Iterator[tuple[str, str]]:
        """Compare files, several at a time. Yields each path, in their order, with what is wrong."""
        with ThreadPoolExecutor(usable_cores()) as pool:
            yield from zip(files, pool.map(self._compare_on_disk, files, files.values()), strict=True)

    def compare_stream(self, path: str, record: FileRecord, stream: BinaryIO) -> str:
        """Compare an opened file, and go back to its start."""
        problem = _other_size(path, record, stream)
        if not problem:
            problem = self._judged(path, record, digest_of(stream))
            stream.seek(0)
        return problem

    def read(self, path: str, record: FileRecord, stream: BinaryIO) -> tuple[bytes, str]:
        """All bytes of an opened file, and what is wrong with just these bytes. A file of another size is not read."""
        if problem := _other_size(path, record, stream):
            return b"", problem
        data = stream.read()
        return data, self._judged(path, record, hashlib.sha256(data).hexdigest())

    def _compare_on_disk(self, path: str, record: FileRecord) -> str:
        try:
            with self._folder.open(path) as stream:
                return self.compare_stream(path, record, stream)
        except OSError as error:
            return unreadable(path, error)

    def _judged(self, path: str, record: FileRecord, digest: str) -> str:
        if digest != record.sha256:
            return f"{path} was changed: its SHA-256 is not the manifest's"
        self._right.add((path, record))
        return ""


def unreadable(path: str, error: OSError) -> str:
    """What is wrong with a file that cannot be opened or read."""
    gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
    return f"{path} is missing" if gone else f"{path} cannot be read: {error.strerror}"


def _other_size(path: str, record: FileRecord, stream: BinaryIO) -> str:
    size = os.fstat(stream.fileno()).st_size
    return "" if size == record.size else f"{path} has {size:,} bytes, the manifest says {record.size:,}"


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return digest_of(stream)


def record_of(stream: BinaryIO) -> FileRecord:
    """What the manifest says of an opened file."""
    return FileRecord(digest_of(stream), os.fstat(stream.fileno()).st_size)


def digest_of(stream: BinaryIO) -> str:
    """The SHA-256 of what is left to read of a stream, in hexadecimal."""
    digest = hashlib.sha256()
    buffer = bytearray(4 << 20)
    view = memoryview(buffer)
    while count := stream.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(view[:count])
    return digest.hexdigest()


def key_of(*parts: object) -> str:
    """The hash of whatever a stage depends on, from the parts' representations."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]
