"""A bundle as one .zip file, and back: nothing is written outside the target, every checksum is compared."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path

from torchlift.bundle import Bundle, locked
from torchlift.errors import BundleError
from torchlift.manifest import MANIFEST, is_inside, read_manifest
from torchlift.progress import SILENT, Progress
from torchlift.storage import require_space, storage_errors

_SYMLINK = 0o120000

_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)
"""What zipfile raises for a file that is missing, damaged or encrypted, or whose entries get in each other's way."""


def pack(path: Path, output: Path | None = None, progress: Progress = SILENT) -> Path:
    """Write ``path``'s bundle into one uncompressed .zip (default: beside it) and return the file."""
    bundle = Bundle.open(path, progress)
    target = output or path.absolute().with_name(f"{path.absolute().name}.zip")
    if target.is_dir():
        raise BundleError(f"{target} is a folder", remedy=f"Name a file, for example {target / 'bundle.zip'}.")
    temporary = target.with_name(f".{target.name}.partial")
    names = [MANIFEST, *bundle.manifest.files]
    with storage_errors(target.parent), progress.stage(f"pack {path.absolute().name}", len(names)) as stage:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(temporary, "w", strict_timestamps=False) as archive:
                for name in names:
                    archive.write(bundle.file(name), name)
                    stage.advance()
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def unpack(file: Path, output: Path, progress: Progress = SILENT) -> Bundle:
    """Take the bundle in ``file`` out to the new folder ``output``.

    Raises BundleError for a file that is no archive of a bundle, or holds an entry that would be written elsewhere.
    """
    if output.exists():
        raise BundleError(f"{output} exists", remedy="Choose a folder that does not exist yet.")
    temporary = output.absolute().with_name(f".{output.absolute().name}.unpacked")
    with storage_errors(output.parent):
        output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with locked(output):
        try:
            with zipfile.ZipFile(file) as archive, storage_errors(output.absolute().parent):
                _extract(archive, file, temporary, progress)
            Bundle.open(temporary, progress)
            temporary.rename(output)
        except _UNREADABLE as error:
            raise BundleError(f"{file} is not a readable .zip: {error}", remedy="Pack the bundle again.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(output, read_manifest(output))


def _extract(archive: zipfile.ZipFile, file: Path, folder: Path, progress: Progress) -> None:
    entries = [e for e in archive.infolist() if not e.is_dir()]
    for entry in entries:
        if not is_inside(entry.filename) or (entry.external_attr >> 16) & 0o170000 == _SYMLINK:
            raise BundleError(
                f"{file} holds the entry {entry.filename!r}, which would be written outside the bundle",
                remedy="Do not use this file.",
            )
    require_space(folder.parent, sum(e.file_size for e in entries))
    shutil.rmtree(folder, ignore_errors=True)
    with progress.stage(f"unpack {file.name}", len(entries)) as stage:
        for entry in entries:
            target = folder / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 4 << 20)
            stage.advance()
