"""Locks a bundle for writing, and replaces a bundle by a new one as a whole."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchlift.bundle import Bundle
from torchlift.errors import BundleError, StorageError
from torchlift.manifest import MANIFEST, Manifest, read_manifest
from torchlift.progress import SILENT, Progress
from torchlift.storage import is_folder, storage_errors, sync_folder

if TYPE_CHECKING:
    from filelock import BaseFileLock


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Lock the bundle at ``target`` for writing. Raises BundleError where another process has locked it."""
    from filelock import FileLock, Timeout

    target = resolved(target)
    if not target.name:
        raise BundleError(f"{target} cannot be a bundle", remedy="Name a folder in it.")
    file = target.with_name(f".{target.name}.lock")
    if not is_folder(file.parent):
        raise BundleError(f"{file.parent} is not a folder", remedy="Give the folder that `torchlift ship` wrote.")
    lock = FileLock(str(file))
    try:
        with storage_errors(file.parent):
            _acquire(lock, file)
    except Timeout:
        raise BundleError(f"{target} is being written by another process", remedy="Wait for it, or stop it.") from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: BaseFileLock, file: Path) -> None:
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a pipe
            raise StorageError(f"{file} cannot be locked: {error.strerror}", remedy="Remove that file.") from error
        raise


def resolved(target: Path) -> Path:
    """The absolute path, without links. Raises BundleError for what can be no path, or is a circle of links."""
    try:
        return target.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{str(target)!r} is no path: {error}", remedy="Name a folder.") from error


@contextlib.contextmanager
def writing(path: Path, progress: Progress = SILENT, *, mending: bool = False) -> Iterator[Bundle]:
    """Lock and open the bundle at ``path`` to change it. Files that an interrupted run left in it are removed.

    ``mending`` and the errors are those of :meth:`torchlift.bundle.Bundle.open`.
    """
    read_manifest(path)  # nothing is written beside what is no bundle
    with locked(path):
        bundle = Bundle.open(path, progress, mending=mending)
        bundle.sweep()
        yield bundle


@contextlib.contextmanager
def staging(target: Path, empty: Manifest, progress: Progress = SILENT) -> Iterator[Bundle]:
    """Prepare a new bundle beside ``target``, and put it there when the block ends without an exception.

    The new bundle starts with the manifest ``empty``. If an earlier run on the same model (the same key) was
    interrupted, it starts with what that run finished.

    The old bundle at ``target`` stays whole until the new one is complete. Then it is moved to ``.NAME.previous`` and
    removed. Where it cannot be removed, a note says so.
    """
    target = resolved(target)
    with storage_errors(target.parent):
        _require_free(target)
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        with storage_errors(target):
            _take_back(target)
            _remove_previous(target, progress)
        partial = target.with_name(f".{target.name}.partial")
        yield _resume(partial, empty) or _start(partial, empty)
        with storage_errors(target):
            _swap(partial, target)
            _remove_previous(target, progress)


def _require_free(target: Path) -> None:
    """Raise BundleError where a bundle cannot take the place of what is there."""
    if target.is_mount():
        raise BundleError(f"{target} is a mount point, which cannot be replaced", remedy=f"Use -o {target / 'bundle'}.")
    if target.exists() and not (target / MANIFEST).is_file() and (target.is_file() or any(target.iterdir())):
        raise BundleError(f"{target} exists and is not a bundle", remedy="Choose another folder with -o.")


def _previous(target: Path) -> dict[int, Path]:
    """Number -> old bundle beside ``target``, the oldest first.

    ``.NAME.previous`` is number 1, ``.NAME.previous.2`` is number 2, and so on.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.previous(?:\.(\d+))?")
    found = {int(match[1] or 1): p for p in target.parent.iterdir() if (match := pattern.fullmatch(p.name))}
    return dict(sorted(found.items()))


def _take_back(target: Path) -> None:
    """Move the old bundle back, if a run was killed after it had moved it aside and before the new one was there."""
    whole = [path for path in _previous(target).values() if (path / MANIFEST).is_file()]
    if whole and not target.exists():
        whole[-1].rename(target)


def _remove_previous(target: Path, progress: Progress) -> None:
    for path in _previous(target).values():
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            progress.note(f"{path}, which is not needed any more, cannot be removed: remove it by hand")


def _resume(partial: Path, empty: Manifest) -> Bundle | None:
    with contextlib.suppress(BundleError):
        bundle = Bundle.open(partial)
        if bundle.manifest.key == empty.key:
            bundle.sweep_all()
            bundle.commit(replace(bundle.manifest, made_with=empty.made_with))
            return bundle
    return None


def _start(partial: Path, empty: Manifest) -> Bundle:
    shutil.rmtree(partial, ignore_errors=True)
    if partial.exists():
        raise StorageError(
            f"{partial}, which an earlier run left, cannot be removed", remedy="Remove it by hand, then try again."
        )
    return Bundle.create(partial, empty)


def _swap(partial: Path, target: Path) -> None:
    if target.exists():
        number = max(_previous(target), default=0) + 1
        target.rename(target.with_name(f".{target.name}.previous" + f".{number}" * (number > 1)))
    partial.rename(target)
    sync_folder(target.parent)
