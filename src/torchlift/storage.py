"""Writes files so that a full disk or a kill never damages what was there before."""

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
_UNUSABLE = frozenset(
    {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENOENT, errno.EINVAL}
)
"""No file can have that name, there."""

_SCARCE = 64 << 20
"""A native library that fails to write gives no reason. With fewer free bytes than this, the disk counts as full."""


_PATH = re.compile(r"(?<![\w.])(?:/[^\s/:'\"<>|]+)+/([^\s/:'\"<>|]+)")


def unfinished_name(name: str) -> str:
    """A new temporary name for a file or folder that will be called ``name`` when it is complete."""
    return f".{name}.{secrets.token_hex(4)}.partial"


def unfinished_of(name: str) -> str:
    """The final name that a temporary name was made for; "" for any other name."""
    match = _UNFINISHED.fullmatch(name)
    return match[1] if match else ""


def atomic_write(file: Path, data: bytes) -> None:
    """Replace the content of ``file`` by ``data`` in one step.

    If that fails, the old content stays. Raises StorageError.
    """
    with replacing(file) as stream:
        stream.write(data)


def open_regular(file: str | os.PathLike[str], *, folder: int | None = None, links: bool = True) -> BinaryIO:
    """Open a regular file for reading. A pipe or a device is an OSError, since reading one may never end.

    ``folder`` is the descriptor of the folder that a relative path starts from. Without ``links``, a symbolic link is
    an OSError too.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    descriptor = os.open(file, flags, dir_fd=folder)  # O_NONBLOCK: opening a pipe does not wait for a writer
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
    raise OSError(number, os.strerror(number) if stat.S_ISDIR(kind) else "It is no regular file", os.fspath(file))


def is_file(path: Path) -> bool:
    """Whether there is a file. Path.is_file raises OSError or ValueError for what can be no path, as a long name."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """The same of a folder."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(folder: int) -> None:
    """Make sure that the names in an open folder are on the disk. File systems that cannot do that are no error."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Yield a new file to write. It replaces ``file`` when the block ends; where the block raises, it is removed.

    Two processes may replace one file at the same time. Each writes a whole file, and that of the last one stays. The
    folder must be readable, too. Raises StorageError.
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
    """As :func:`replacing`, for the file ``name`` in the folder with the descriptor ``parent``.

    The new file is called ``.NAME.RANDOM.partial``, and is locked while it is written. A process that is killed leaves
    such a file unlocked. The next process that replaces the same file removes it.
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
    """Make a new file for writing, and lock it; returns it with its name."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        temporary = unfinished_name(name)
        stream = os.fdopen(os.open(temporary, flags, 0o666, dir_fd=parent), "w+b")
        with contextlib.suppress(OSError):  # without locks in the file system, no file counts as abandoned either
            fcntl.flock(stream, fcntl.LOCK_EX)
        if os.fstat(stream.fileno()).st_nlink:
            return stream, temporary
        stream.close()  # another process removed it as abandoned before it was locked


def _remove_abandoned(parent: int, name: str) -> None:
    """Remove the unfinished files of processes that no longer run. A pipe or a link of such a name is left alone."""
    for found in os.listdir(parent):
        if unfinished_of(found) != name:
            continue
        with contextlib.suppress(OSError):  # the file is locked, gone, or another user's
            descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(found, dir_fd=parent)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Raise StorageError for failures to write below ``folder``, also for those that native libraries report."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(folder) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(
                f"{folder} may not be written: {error.strerror}", remedy="Choose another folder with -o."
            ) from error
        if error.errno in _UNUSABLE and error.filename is not None:
            raise StorageError(
                f"{folder}: {error.filename!r} cannot be written: {error.strerror}",
                remedy="Choose another name or folder with -o.",
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
    """The free bytes on the disk of ``folder``, which need not exist yet."""
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if is_folder(p) or is_file(p))
    return shutil.disk_usage(existing).free


def without_folders(text: str) -> str:
    """``text`` with each absolute path cut to its last part, so that a bundle names no folders of the machine."""
    return _PATH.sub(r"\1", text)


def _full(folder: Path) -> StorageError:
    return StorageError(
        f"{folder}: the disk is full ({free_space(folder) / 1e6:.0f} MB free)",
        remedy="Free some space and run the same command again: what was finished is kept.",
    )
