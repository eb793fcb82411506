"""Access to a folder that may come from a stranger: no file in it is reached through a symbolic link.

For example ``Folder(Path("clip")).read("image/source/model.onnx")`` opens ``clip``, then ``image`` within it, then
``source``, then the file, each by the descriptor of the one before. A symbolic link below ``clip`` is an error, even
one that was made a moment ago. The folder itself may be reached through links, since the user gave its path.

It uses openat(2) and related calls, so it needs Linux or another system that has them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from torchlift.errors import BundleError
from torchlift.storage import open_regular, replacing_at, storage_errors, sync_descriptor

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_DEEPEST = 32
"""The most levels of folders. torchlift makes three. Very deep folders would exhaust memory or descriptors."""


class Folder:
    """The folder at ``path``. Paths within it are relative, with ``/`` between their parts, and without ``..``.

    Every method raises BundleError where a part of a path is a link, and OSError where the system refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, path: str) -> BinaryIO:
        """Open a regular file for reading."""
        with self._at(path) as (parent, name):
            try:
                return open_regular(name, folder=parent, links=False)
            except OSError as error:
                raise self._refusal(parent, name, path) or error from None

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        with self.open(path) as stream:
            return stream.read()

    def place(self, path: str) -> Path:
        """The path on disk, for a runtime that opens files by itself. The file need not exist."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._at(path) as (parent, name):
            if refusal := self._refusal(parent, name, path):
                raise refusal
        return self.path / path

    def write(self, path: str, data: bytes) -> None:
        """Replace the content of a file by ``data`` in one step.

        Where that fails it raises StorageError, and the old stays.
        """
        with storage_errors(self.path), self._at(path) as (parent, name), replacing_at(parent, name) as stream:
            stream.write(data)

    def add(self, path: str, data: bytes) -> None:
        """Write a new file into an existing folder. Raises FileExistsError where the name is taken."""
        with self._at(path) as (parent, name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, 0o666, dir_fd=parent), "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())

    def make(self, name: str) -> Path:
        """Make a new folder at the top level. Raises FileExistsError where the name is taken."""
        with self._at(name) as (parent, last):
            os.mkdir(last, dir_fd=parent)
        return self.path / name

    def move(self, source: str, target: str) -> None:
        """Move a file or a folder to a free name. Missing folders above that name are made."""
        with self._at(source) as (before, old), self._at(target, make=True) as (after, new):
            os.rename(old, new, src_dir_fd=before, dst_dir_fd=after)
            sync_descriptor(after)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with its content, and then the folders above that have become empty.

        A path that does not exist is no error. For a link, the link itself is removed and not its target.
        """
        with contextlib.suppress(FileNotFoundError), self._at(path) as (parent, name):
            _remove(parent, name)
        for above in PurePosixPath(path).parents[:-1]:
            with contextlib.suppress(OSError), self._at(above.as_posix()) as (parent, name):
                os.rmdir(name, dir_fd=parent)

    def has(self, path: str) -> bool:
        """Whether the name is taken, also by a link without a target."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), self._at(path) as (parent, name):
            os.stat(name, dir_fd=parent, follow_symlinks=False)
            return True
        return False

    def files(self, below: str = "") -> list[str]:
        """The sorted paths of all that is no folder, such as files and links; of the folder ``below`` if given.

        A folder more than 32 levels deep is listed like a file, and is not entered.
        """
        return sorted(f"{path}/{name}" if path else name for path, names in self._walk(below) for name in names)

    def empty(self, below: str = "") -> list[str]:
        """The folders that are empty, also without folders in them; sorted."""
        folders = dict(self._walk(below))
        holding = {above.as_posix() for path in folders for above in PurePosixPath(path).parents}
        return sorted(path for path in folders.keys() - holding - {below} if not folders[path])

    def sync(self, below: str) -> None:
        """Make sure that everything below a folder is on the disk, so that a power failure loses none of it."""
        for folder, names in self._walk(below):
            for name in names:
                with self.open(f"{folder}/{name}") as stream:
                    os.fsync(stream.fileno())
            with self._entered(folder) as descriptor:
                sync_descriptor(descriptor)

    def _walk(self, below: str) -> Iterator[tuple[str, list[str]]]:
        """Each folder, with the names of everything in it that is not a folder."""
        pending = [below]
        while pending:
            path = pending.pop()
            names: list[str] = []
            # Another process may have removed the folder, or we may not read it: it is passed over.
            with (
                contextlib.suppress(FileNotFoundError, PermissionError),
                self._entered(path) as descriptor,
                os.scandir(descriptor) as entries,
            ):
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) and len(PurePosixPath(path).parts) < _DEEPEST:
                        pending.append(f"{path}/{entry.name}" if path else entry.name)
                    else:
                        names.append(entry.name)
            yield path, names

    @contextlib.contextmanager
    def _entered(self, path: str) -> Iterator[int]:
        """Yield the descriptor of a folder."""
        with self._at(f"{path}/." if path else ".") as (descriptor, _):
            yield descriptor

    @contextlib.contextmanager
    def _at(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the descriptor of the folder that holds ``path``, and the last part of ``path``.

        With ``make``, missing folders on the way are made.
        """
        *folders, name = path.split("/")
        at = os.open(self.path, _FOLDER)
        try:
            for folder in folders:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, dir_fd=at)
                try:
                    inner = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
                except OSError as error:
                    raise self._refusal(at, folder, path) or error from None
                os.close(at)
                at = inner
            yield at, name
        finally:
            os.close(at)

    def _refusal(self, parent: int, name: str, path: str) -> BundleError | None:
        """The error for ``name`` if it is a link; else None."""
        with contextlib.suppress(OSError):
            if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return BundleError(
                    f"{self.path}: on the way to {path!r}, {name!r} is a link",
                    remedy="A bundle has no links. If they are your own, copy it with what they point to: cp -rL.",
                )
        return None


def _remove(parent: int, name: str) -> None:
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=parent)
        return
    descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    try:
        with os.scandir(descriptor) as entries:
            names = [entry.name for entry in entries]
        for inner in names:
            _remove(descriptor, inner)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)
