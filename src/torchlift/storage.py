"""Writing so that a full disk or a kill loses nothing that was there before."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from torchlift.errors import BackendError, StorageError, TorchliftError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SCARCE = 64 << 20
"""Bytes free below which a native library's failure to write is put down to the disk."""


_PATH = re.compile(r"(?<![\w.])(?:/[^\s/:'\"<>|]+)+/([^\s/:'\"<>|]+)")


def atomic_write(file: Path, data: bytes) -> None:
    """Replace ``file`` by ``data`` in one step; on failure the old content stays. Raises StorageError."""
    temporary = file.with_name(f".{file.name}.partial")
    with storage_errors(file.parent):
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


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
