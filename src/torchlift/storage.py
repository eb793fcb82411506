"""Writing so that a full disk or a kill loses nothing that was there before."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from torchlift.errors import BackendError, StorageError, TorchliftError

_UNFINISHED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.partial", re.DOTALL)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SCARCE = 64 << 20
"""Bytes free below which a native library's failure to write is put down to the disk."""


_PATH = re.compile(r"(?<![\w.])(?:/[^\s/:'\"<>|]+)+/([^\s/:'\"<>|]+)")


def unfinished_name(name: str) -> str:
    """A name that nothing has, for what is written and will be called ``name``."""
    return f".{name}.{secrets.token_hex(4)}.partial"


def unfinished_of(name: str) -> str:
    """What the name of something unfinished was made for; empty for any other name."""
    match = _UNFINISHED.fullmatch(name)
    return match[1] if match else ""


def atomic_write(file: Path, data: bytes) -> None:
    """Replace ``file`` by ``data`` in one step; on failure the old content stays. Raises StorageError."""
    with replacing(file) as stream:
        stream.write(data)


def open_regular(file: str | os.PathLike[str], *, folder: int | None = None, links: bool = True) -> BinaryIO:
    """As ``open(file, "rb")``, but a pipe or a device is an OSError: to read one may take for ever.

    ``folder`` is the descriptor that a relative path starts from; without ``links`` a link is an OSError too.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(file, flags, dir_fd=folder)  # without O_NONBLOCK it would wait for who writes to a pipe
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
    raise OSError(number, os.strerror(number) if stat.S_ISDIR(kind) else "It is no regular file", os.fspath(file))


def sync_folder(folder: Path) -> None:
    """Return once the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(folder: int) -> None:
    """The same of an open folder. Some file systems, of networks for example, do not sync folders: that is no error."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """A new file to write, which takes the place of ``file`` when the block ends, and is dropped where it raises.

    Two processes may replace one file at a time: each writes a whole one, and the last to end stays. The folder must be
    one that can be read, too. Raises StorageError.
    """
    with storage_errors(file.parent):
        parent = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with replacing_at(parent, file.name) as stream:
                yield stream
        finally:
            os.close(parent)


@contextlib.contextmanager
def replacing_at(parent: int, name: str) -> Iterator[BinaryIO]:
    """As :func:`replacing`, of the file ``name`` in the folder with the descriptor ``parent``.

    The new file is called ``.NAME.RANDOM.partial``, is made exclusively, and is locked while it is written. One that a
    process left when it was killed is not locked: it is removed by the next that replaces the same file.
    """
    _remove_abandoned(parent, name)
    stream, temporary = _exclusive(parent, name)
    with stream:
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            sync_descriptor(parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            raise


def _exclusive(parent: int, name: str) -> tuple[BinaryIO, str]:
    """A new file to write, locked, and its name."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        temporary = unfinished_name(name)
        stream = os.fdopen(os.open(temporary, flags, 0o666, dir_fd=parent), "w+b")
        with contextlib.suppress(OSError):  # a file system without locks removes no abandoned files either
            fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink:
            return stream, temporary
        stream.close()  # another process took it for abandoned before it was locked


def _remove_abandoned(parent: int, name: str) -> None:
    """Remove the unfinished files of processes that are gone. A pipe or a link of such a name is not opened."""
    for found in os.listdir(parent):
        if unfinished_of(found) != name:
            continue
        with contextlib.suppress(OSError):  # it is locked, or gone by now, or not ours
            descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(found, dir_fd=parent)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn failures to write below ``folder`` into StorageError, also those that native libraries call their own."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(folder) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(
                f"{folder} may not be written: {error.strerror}", remedy="Choose another folder with -o."
            ) from error
        raise
    except Exception as error:
        native = type(error) is BackendError or not isinstance(error, TorchliftError)
        if native and free_space(folder) < _SCARCE:
            raise _full(folder) from error
        raise


def require_space(folder: Path, size: int) -> None:
    """Raise StorageError where fewer than ``size`` bytes are free for ``folder``."""
    free = free_space(folder)
    if free < size:
        raise StorageError(
            f"{folder}: {size / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free",
            remedy="Free some space, or choose a folder on another disk with -o.",
        )


def free_space(folder: Path) -> int:
    """Bytes free for ``folder``, which need not exist yet."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def without_folders(text: str) -> str:
    """``text`` with every absolute path cut to its last part: a bundle says what a runtime said, not where it ran."""
    return _PATH.sub(r"\1", text)


def _full(folder: Path) -> StorageError:
    return StorageError(
        f"{folder}: the disk is full ({free_space(folder) / 1e6:.0f} MB free)",
        remedy="Free some space and run the same command again: what was finished is kept.",
    )
