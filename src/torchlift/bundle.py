"""The bundle: one folder that holds a model's graphs, goldens, assets, variants and evidence, and proves itself.

Layout::

    manifest.json
    assets/...                            vocabulary, labels
    <component>/source/model.onnx(.data)  the FP32 source of truth, weights beside it
    <component>/source/goldens.safetensors
    <component>/<backend>-<precision>/    what a backend needs to open a variant

Whatever changes a bundle writes new files first and the manifest last, by rename: a kill in between leaves the bundle
as it was. No file is reached through a link (:class:`torchlift.folder.Folder`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from torchlift.companions import companions
from torchlift.errors import BundleError, ChecksumError, some
from torchlift.folder import Folder
from torchlift.machine import usable_cores
from torchlift.manifest import (
    MANIFEST,
    Component,
    FileRecord,
    Graph,
    Manifest,
    Variant,
    encode_manifest,
    is_inside,
    read_manifest,
)
from torchlift.progress import SILENT, Progress
from torchlift.storage import PARTIAL, storage_errors

SOURCE = "source"
"""The folder of a component that holds its ONNX file and its goldens."""

_UNFINISHED = re.compile(rf"\..*\{PARTIAL}")
"""Names at the top of a bundle of what is being written."""

_SHARED_FOLDERS = re.compile(r"(assets|scores)(\.\d+)?")
"""Folders at the top of a bundle that are no component's."""


class Bundle:
    """A bundle on disk: its ``path`` and its current ``manifest``; see :meth:`open` and :meth:`create`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._folder = Folder(path)
        self._passed: set[str] | None = None
        """Within :meth:`together` the files that were listed at any time; else None."""

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
        Files that the manifest does not list are named in a note; nothing reads them.

        Raises BundleError, ManifestVersionError or ChecksumError; each names the file.
        """
        folder = Path(path)
        bundle = cls(folder, read_manifest(folder))
        unlisted = [path for path in bundle.unlisted() if not _UNFINISHED.fullmatch(PurePosixPath(path).parts[0])]
        if unlisted:
            progress.note(f"{folder} has files that its manifest does not list; none is used: {some(unlisted)}")
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
        try:
            with self._folder.open(path) as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != record.size:
                    return f"{path} has {size:,} bytes, the manifest says {record.size:,}"
                if digest_of(stream) != record.sha256:
                    return f"{path} was changed: its SHA-256 is not the manifest's"
        except (FileNotFoundError, NotADirectoryError):
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
        return ""

    def file(self, path: str) -> Path:
        """The place on disk of a path within the bundle; raises BundleError where a part of the way is a link."""
        return self._folder.place(path)

    def open_file(self, path: str) -> BinaryIO:
        """A file of the bundle, opened to read. Raises BundleError where it cannot be, or where a part of the way is a
        link.
        """
        try:
            return self._folder.open(path)
        except OSError as error:
            raise BundleError(
                f"{self.path}: {path} cannot be read: {error.strerror}",
                remedy="Open the bundle again: it may have changed meanwhile.",
            ) from error

    def read(self, path: str) -> bytes:
        """All bytes of a file of the bundle. Raises BundleError as :meth:`open_file` does."""
        with self.open_file(path) as stream:
            return stream.read()

    def model(self, owner: Component | Graph | Variant) -> Path:
        """The place on disk of the model of a component (its source graph), a graph or a variant, for what opens it.

        Everything that will be read with it is known to be listed then: the weights that the model names are among the
        files that its proof is about, and no visible file lies beside it unlisted. Raises BundleError otherwise.
        """
        folder = PurePosixPath(owner.model).parent.as_posix()
        unproven = companions(owner.model, self.read) - set(self.manifest.files_of(owner))
        beside = {path for path in self._folder.files(folder) if not PurePosixPath(path).name.startswith(".")}
        unlisted = sorted(unproven | (beside - self.manifest.files.keys()))
        if unlisted:
            raise BundleError(
                f"{self.path}: {unlisted[0]!r} would be read with {owner.model}, and is not listed as a part of it",
                remedy="Remove it if it was added later; else do not use this bundle.",
            )
        return self.file(owner.model)

    def unlisted(self) -> list[str]:
        """Paths of what is in the folder, is no folder, and is not in the manifest; links too."""
        return [path for path in self._folder.files() if path != MANIFEST and path not in self.manifest.files]

    def sweep(self, *, everything: bool = False) -> None:
        """Remove what a run that was cut off left: unfinished files, and folders that :meth:`adding` made and of which
        the manifest lists no file; or ``everything`` that it does not list. Only who holds the lock may call it.
        """
        listed = _folders_of(self.manifest.files)
        for path in self.unlisted():
            if everything or self._is_left(PurePosixPath(path), listed):
                self._folder.remove(path)
        for path in self._folder.empty():
            if everything or self._is_left(PurePosixPath(path, "any"), listed):
                self._folder.remove(path)

    def _is_left(self, path: PurePosixPath, listed: set[PurePosixPath]) -> bool:
        top = path.parts[0]
        if _UNFINISHED.fullmatch(top):
            return True
        of_component = top in {component.name for component in self.manifest.components}
        depth = 2 if of_component else 1 if _SHARED_FOLDERS.fullmatch(top) else 0
        return 0 < depth < len(path.parts) and PurePosixPath(*path.parts[:depth]) not in listed

    @contextlib.contextmanager
    def adding(self, folder: str) -> Iterator[Added]:
        """Write new files: yields a temporary folder, and moves it to a free name like ``folder`` when the block ends.

        The files count as the bundle's once they are in a manifest that :meth:`commit` wrote. They are on the disk by
        then, so that losing the power cannot leave a manifest that names files without their content.
        """
        if not is_inside(folder):
            raise BundleError(f"{folder!r} is not within the bundle", remedy="Do not use this bundle.")
        name = f".{folder.replace('/', '.')}.{secrets.token_hex(4)}{PARTIAL}"
        try:
            with storage_errors(self.path):
                added = Added(self._folder.make(name))
                yield added
                self._folder.sync(name)
                added.folder = self._free(folder)
                for path in self._folder.files(name):
                    with self._folder.open(path) as stream:
                        added.files[added.folder + path.removeprefix(name)] = record_of(stream)
                self._folder.remove(added.folder)
                self._folder.move(name, added.folder)
        finally:
            self._folder.remove(name)

    def _free(self, folder: str) -> str:
        taken = _folders_of((*self.manifest.files, *(self._passed or ())))
        names = (folder if n == 1 else f"{folder}.{n}" for n in range(1, 1000))
        return next(name for name in names if PurePosixPath(name) not in taken)

    def commit(self, manifest: Manifest, added: Mapping[str, FileRecord] | None = None) -> None:
        """Make ``manifest`` the bundle's, in one atomic step; files that it no longer points to are removed after."""
        files = {**self.manifest.files, **(added or {})}
        manifest = replace(manifest, files=files)
        kept = manifest.referenced()
        manifest = replace(manifest, files={p: r for p, r in sorted(files.items()) if p in kept})
        if self._passed is None:
            self._folder.write(MANIFEST, encode_manifest(manifest))
            self._remove(files.keys() - kept)
        else:
            self._passed |= files.keys()
        self.manifest = manifest

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Make all commits within the block one, at its end; where the block raises, none of them was made. A block
        within such a block is a part of it.
        """
        if self._passed is not None:
            yield
            return
        before, self._passed = self.manifest, set(self.manifest.files)
        try:
            yield
            self._folder.write(MANIFEST, encode_manifest(self.manifest))
        except BaseException:
            self.manifest = before
            raise
        finally:
            passed, self._passed = self._passed, None
            self._remove(passed - self.manifest.files.keys())

    def _remove(self, paths: set[str]) -> None:
        for path in paths:
            self._folder.remove(path)


def _folders_of(paths: Iterable[str]) -> set[PurePosixPath]:
    """The folders of these files, and all above them."""
    return {folder for path in paths for folder in PurePosixPath(path).parents}


def _own_files(manifest: Manifest) -> set[str]:
    """What only variants have: not the graph that a backend opens as it is."""
    return {path for v in manifest.variants for path in v.files} - replace(manifest, variants=()).referenced()


class Added:
    """Files on their way into a bundle: write into ``path``; ``folder`` and ``files`` are set when the block ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = ""
        self.files: dict[str, FileRecord] = {}


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
