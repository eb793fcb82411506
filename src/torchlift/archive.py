"""Packs a bundle into one .zip file, and unpacks it. Every checksum is compared, and no file lands elsewhere."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from torchlift.bundle import Bundle
from torchlift.checksums import digest_of
from torchlift.errors import BundleError, ChecksumError
from torchlift.folder import Folder
from torchlift.manifest import MANIFEST, FileRecord, Manifest, decode_manifest
from torchlift.progress import SILENT, Progress
from torchlift.staging import locked, resolved
from torchlift.storage import is_file, is_folder, replacing, require_space, storage_errors, sync_folder

_LARGEST_MANIFEST = 256 << 20
"""The most bytes of a manifest (256 MiB). Manifests of large bundles have some hundred kilobytes."""

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
"""The exceptions of zipfile for an entry that is damaged, encrypted, compressed by an unknown method, or of a name that
is no text."""

_UNREADABLE = (*_DAMAGED, OSError)


def pack(path: Path, output: Path | None = None, progress: Progress = SILENT) -> Path:
    """Write the bundle at ``path`` into one uncompressed .zip, by default beside it, and return that file.

    Raises BundleError where the bundle is damaged, or where ``output`` is a folder or in the bundle.
    """
    bundle = Bundle.open(path, progress)
    place = path.resolve()
    target = output or place.with_name(f"{place.name}.zip")
    if is_folder(target):
        raise BundleError(f"{target} is a folder", remedy=f"Name a file, for example {target / 'bundle.zip'}.")
    if resolved(target).is_relative_to(place):
        raise BundleError(f"{target} is in the bundle that is packed", remedy="Choose a place outside of it.")
    names = [MANIFEST, *bundle.manifest.files]
    with storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(target) as sink,
        zipfile.ZipFile(sink, "w") as archive,
        progress.stage(f"pack {place.name}", len(names)) as stage,
    ):
        for name in names:
            entry = zipfile.ZipInfo(name)
            with bundle.open_file(name) as source:
                entry.file_size = os.fstat(source.fileno()).st_size
                with archive.open(entry, "w") as packed:
                    shutil.copyfileobj(source, packed, 4 << 20)
            stage.advance()
    return target


def unpack(file: Path, output: Path, progress: Progress = SILENT) -> Bundle:
    """Unpack the bundle in ``file`` into the new folder ``output``.

    The manifest is read first. The entries must be exactly the files that it lists, with the sizes that it states;
    otherwise nothing is written, and BundleError is raised. Raises ChecksumError where the content of a file was
    changed.
    """
    target = output.absolute()
    with _archive(file) as archive:
        manifest = _checked(archive, file)
        with storage_errors(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            _remove_abandoned(target)
            if target.exists() or target.is_symlink():
                raise BundleError(f"{output} exists", remedy="Choose a folder that does not exist yet.")
            require_space(target.parent, sum(record.size for record in manifest.files.values()))
            with storage_errors(target.parent), _beside(target) as temporary:
                _extract(archive, file, manifest, temporary, progress)
                Folder(temporary.parent).sync(temporary.name)
                temporary.rename(target)
                sync_folder(target.parent)
    return Bundle(output, manifest)


@contextlib.contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        if file.exists() and not (is_file(file) or is_folder(file)):
            raise OSError(f"{file.name} is no regular file")
        archive = zipfile.ZipFile(file)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error
    with archive:
        yield archive


def _unreadable(file: Path, error: Exception) -> BundleError:
    return BundleError(f"{file} is not a readable .zip: {error}", remedy="Pack the bundle again.")


def _checked(archive: zipfile.ZipFile, file: Path) -> Manifest:
    """Read the manifest of an archive, and check that the entries are exactly the files that it lists."""
    entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    named = {entry.filename: entry for entry in entries}
    if MANIFEST not in named:
        raise BundleError(f"{file} has no {MANIFEST}: it is no bundle", remedy="Pack a bundle: torchlift pack.")
    if named[MANIFEST].file_size > _LARGEST_MANIFEST:
        raise BundleError(f"{file}: {MANIFEST} has {named[MANIFEST].file_size:,} bytes", remedy="Do not use this file.")
    try:
        data = archive.read(MANIFEST)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error
    manifest = decode_manifest(data, file / MANIFEST)
    seen: set[str] = set()
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if name in seen or (name != MANIFEST and name not in manifest.files) or kind not in (0, stat.S_IFREG):
            raise BundleError(
                f"{file} holds the entry {name!r}, which is twice there, no plain file, or not in its {MANIFEST}",
                remedy="Do not use this file.",
            )
        seen.add(name)
        if name != MANIFEST and entry.file_size != manifest.files[name].size:
            raise ChecksumError(
                f"{file}: {name} has {entry.file_size:,} bytes, the manifest says {manifest.files[name].size:,}",
                remedy="Pack the bundle again.",
                path=name,
            )
    if missing := sorted(manifest.files.keys() - seen):
        raise ChecksumError(f"{file}: {missing[0]} is missing", remedy="Pack the bundle again.", path=missing[0])
    return manifest


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """Yield a new folder that is to be renamed to ``output``. If it was not renamed, it is removed at the end."""
    outer = Path(tempfile.mkdtemp(".unpacked", f".{output.name}.", output.parent))
    try:
        inner = outer / output.name
        inner.mkdir()
        yield inner
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _remove_abandoned(output: Path) -> None:
    """Remove folders that killed runs left beside ``output``, which must be locked."""
    pattern = re.compile(rf"\.{re.escape(output.name)}\..{{8}}\.unpacked")
    for left in (path for path in output.parent.iterdir() if pattern.fullmatch(path.name)):
        shutil.rmtree(left, ignore_errors=True)


def _extract(archive: zipfile.ZipFile, file: Path, manifest: Manifest, folder: Path, progress: Progress) -> None:
    """Write every file. Raises ChecksumError for the first file that is not what the manifest lists."""
    records: dict[str, FileRecord | None] = {**manifest.files, MANIFEST: None}
    with progress.stage(f"unpack {file.name}", len(records)) as stage:
        for name, record in records.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(archive, file, name, target, record)
            stage.advance()


def _write(archive: zipfile.ZipFile, file: Path, name: str, target: Path, record: FileRecord | None) -> None:
    with target.open("x+b") as sink:
        try:
            with archive.open(name) as source:
                shutil.copyfileobj(source, sink, 4 << 20)
        except _DAMAGED as error:
            raise _unreadable(file, error) from error
        sink.flush()
        os.fsync(sink.fileno())
        sink.seek(0)
        if record is not None and digest_of(sink) != record.sha256:
            raise ChecksumError(f"{file}: {name} was changed", remedy="Pack the bundle again.", path=name)
