"""The bundle: one folder that holds a model's graphs, goldens, assets, variants and evidence, and proves itself.

Layout::

    manifest.json
    assets/...                            vocabulary, labels
    <component>/source/model.onnx(.data)  the FP32 source of truth, weights beside it
    <component>/source/goldens.safetensors
    <component>/<backend>-<precision>/    what a backend needs to open a variant

Whatever changes a bundle writes new files first and the manifest last, by rename: a kill in between leaves the bundle
as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Container, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

from torchlift.errors import BundleError, ChecksumError
from torchlift.machine import usable_cores
from torchlift.manifest import MANIFEST, FileRecord, Manifest, encode_manifest, is_inside, read_manifest
from torchlift.progress import SILENT, Progress
from torchlift.storage import atomic_write, storage_errors

SOURCE = "source"
"""The folder of a component that holds its ONNX file and its goldens."""


class Bundle:
    """A bundle on disk: its ``path`` and its current ``manifest``; see :meth:`open` and :meth:`create`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> Bundle:
        """Start a bundle without components in a new or empty folder."""
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        bundle = cls(path, manifest)
        bundle.commit(manifest)
        return bundle

    @classmethod
    def open(cls, path: str | os.PathLike[str], progress: Progress = SILENT, *, mending: bool = False) -> Bundle:
        """Open a bundle after checking its manifest and the SHA-256 of every file. With ``mending``, which is for who
        builds, a variant whose own files differ is left out, with a note; on disk it goes with the first change.

        Raises BundleError, ManifestVersionError or ChecksumError; each names the file.
        """
        folder = Path(path)
        bundle = cls(folder, read_manifest(folder))
        if mending:
            bundle._leave_out_damaged(progress)
        else:
            bundle.check(progress)
        return bundle

    def check(self, progress: Progress = SILENT, *, but: Container[str] = ()) -> dict[str, str]:
        """Compare every file with the manifest; raises ChecksumError that names the first that differs, unless it is
        among ``but``: of these returns path -> what is wrong.
        """
        files, found = self.manifest.files, dict[str, str]()
        with ThreadPoolExecutor(usable_cores()) as pool, progress.stage("compare checksums", len(files)) as stage:
            for path, problem in zip(files, pool.map(self._problem, files, files.values()), strict=True):
                stage.advance()
                if problem and path not in but:
                    raise ChecksumError(f"{self.path}: {problem}", remedy=self._remedy(path))
                if problem:
                    found[path] = problem
        return found

    def _remedy(self, path: str) -> str:
        copy = "Copy the bundle again from where it was made, or"
        if path not in _own_files(self.manifest):
            return f"{copy} ship it again."
        variant = next(v for v in self.manifest.variants if path in v.files)
        command = f"torchlift build {self.path} --backend {variant.backend} --precision {variant.recipe}"
        return f"{copy} build the variant again: {command}."

    def _leave_out_damaged(self, progress: Progress) -> None:
        damaged = self.check(progress, but=_own_files(self.manifest))
        gone = {v.name: problem for path, problem in damaged.items() for v in self.manifest.variants if path in v.files}
        for name, problem in gone.items():
            progress.note(f"{name} counts as not built: {problem}")
        self.manifest = replace(
            self.manifest,
            variants=tuple(v for v in self.manifest.variants if v.name not in gone),
            choices={name: choice for name, choice in self.manifest.choices.items() if choice.variant not in gone},
        )

    def _problem(self, path: str, record: FileRecord) -> str:
        file = self.file(path)
        if not file.is_file():
            return f"{path} is missing"
        if file.stat().st_size != record.size:
            return f"{path} has {file.stat().st_size:,} bytes, the manifest says {record.size:,}"
        if sha256(file) != record.sha256:
            return f"{path} was changed: its SHA-256 is not the manifest's"
        return ""

    def file(self, path: str) -> Path:
        """The place on disk of a path within the bundle."""
        return self.path / path

    @contextlib.contextmanager
    def adding(self, folder: str) -> Iterator[Added]:
        """Write new files: yields a temporary folder, and moves it to a free name like ``folder`` when the block ends.

        The files count as the bundle's once they are in a manifest that :meth:`commit` wrote.
        """
        if not is_inside(folder):
            raise BundleError(f"{folder!r} is not within the bundle", remedy="Do not use this bundle.")
        temporary = self.path / f".{folder.replace('/', '.')}.partial"
        shutil.rmtree(temporary, ignore_errors=True)
        added = Added(temporary)
        try:
            with storage_errors(self.path):
                temporary.mkdir()
                yield added
                added.folder = self._free(folder)
                added.files = {
                    f"{added.folder}/{file.relative_to(temporary).as_posix()}": record_of(file)
                    for file in sorted(temporary.rglob("*"))
                    if file.is_file()
                }
                target = self.path / added.folder
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _free(self, folder: str) -> str:
        taken = {PurePosixPath(p).parent for p in self.manifest.files}
        names = (folder if n == 1 else f"{folder}.{n}" for n in range(1, 1000))
        return next(name for name in names if PurePosixPath(name) not in taken)

    def commit(self, manifest: Manifest, added: Mapping[str, FileRecord] | None = None) -> None:
        """Make ``manifest`` the bundle's, in one atomic step; files that it no longer points to are removed after."""
        files = {**self.manifest.files, **(added or {})}
        manifest = replace(manifest, files=files)
        kept = manifest.referenced()
        manifest = replace(manifest, files={p: r for p, r in sorted(files.items()) if p in kept})
        atomic_write(self.path / MANIFEST, encode_manifest(manifest))
        self.manifest = manifest
        for path in files.keys() - kept:
            self.file(path).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.file(path).parent.rmdir()


def _own_files(manifest: Manifest) -> set[str]:
    """What only variants have: not the graph that a backend opens as it is."""
    return {path for v in manifest.variants for path in v.files} - replace(manifest, variants=()).referenced()


def _sweep(bundle: Bundle) -> None:
    """Remove what a run that was cut off left behind and the manifest does not name."""
    for file in bundle.path.rglob("*"):
        path = file.relative_to(bundle.path).as_posix()
        if file.is_file() and path != MANIFEST and path not in bundle.manifest.files:
            file.unlink()
    for folder in sorted((p for p in bundle.path.rglob("*") if p.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()


class Added:
    """Files on their way into a bundle: write into ``path``; ``folder`` and ``files`` are set when the block ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = ""
        self.files: dict[str, FileRecord] = {}


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        buffer = bytearray(4 << 20)
        view = memoryview(buffer)
        while count := stream.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def record_of(file: Path) -> FileRecord:
    return FileRecord(sha256(file), file.stat().st_size)


def key_of(*parts: object) -> str:
    """The hash of whatever a stage depends on, from the parts' representations."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def staging(target: Path, empty: Manifest) -> Iterator[Bundle]:
    """Prepare a bundle beside ``target`` and put it in its place when the block ends without an exception.

    It starts ``empty``, or where an earlier run on the same model (by its key) was cut off with what that run finished.
    What was at ``target`` stays whole until the new bundle is complete.
    """
    target = target.resolve()
    if target.is_mount():
        raise BundleError(f"{target} is a mount point, which cannot be replaced", remedy=f"Use -o {target / 'bundle'}.")
    if target.exists() and not (target / MANIFEST).is_file() and (target.is_file() or any(target.iterdir())):
        raise BundleError(f"{target} exists and is not a bundle", remedy="Choose another folder with -o.")
    partial, previous = (target.with_name(f".{target.name}.{suffix}") for suffix in ("partial", "previous"))
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        with storage_errors(target):
            if previous.exists() and not target.exists():
                previous.rename(target)
        yield _resume(partial, empty) or Bundle.create(partial, empty)
        shutil.rmtree(previous, ignore_errors=True)
        with storage_errors(target):
            if target.exists():
                target.rename(previous)
            partial.rename(target)
        shutil.rmtree(previous, ignore_errors=True)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the right to write the bundle at ``target``; raises BundleError where another process holds it."""
    from filelock import FileLock, Timeout

    target = target.resolve()
    file = target.with_name(f".{target.name}.lock")
    if not file.parent.is_dir():
        raise BundleError(f"{file.parent} is not a folder", remedy="Give the folder that `torchlift ship` wrote.")
    lock = FileLock(str(file))
    try:
        with storage_errors(file.parent):
            lock.acquire(timeout=0)
    except Timeout:
        raise BundleError(f"{target} is being written by another process", remedy="Wait for it, or stop it.") from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def _resume(partial: Path, empty: Manifest) -> Bundle | None:
    with contextlib.suppress(BundleError):
        bundle = Bundle.open(partial)
        if bundle.manifest.key == empty.key:
            _sweep(bundle)
            bundle.commit(replace(bundle.manifest, made_with=empty.made_with))
            return bundle
    shutil.rmtree(partial, ignore_errors=True)
    return None
