"""The bundle: one folder with a model's graphs, goldens, assets, variants and evidence, and a checksum of each file.

Layout::

    manifest.json
    assets/...                            vocabulary, labels
    <component>/source/model.onnx(.data)  the FP32 source of truth, weights beside it
    <component>/source/goldens.safetensors
    <component>/<form>/                   a graph converted from the source
    <component>/<backend>-<precision>/    what a backend needs to open a variant
    scores/...                            the reference's answers

A folder whose name is taken gets a number: ``scores.2``. Whatever changes a bundle writes new files first and the
manifest last, by rename: a kill in between leaves the bundle as it was. No file is reached through a link
(:class:`torchlift.folder.Folder`).

No file is read before its bytes were compared with the manifest. Each is compared once for every :class:`Bundle`: all
of them by :meth:`Bundle.open`, or each when it is first read, where the bundle comes from :meth:`Bundle.open_to_use`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from torchlift.checksums import Checksums, record_of, unreadable
from torchlift.companions import companions, may_loop
from torchlift.errors import BundleError, ChecksumError, StorageError, some
from torchlift.folder import Folder
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
from torchlift.storage import storage_errors, unfinished_name, unfinished_of

SOURCE = "source"
"""The folder of a component that holds its ONNX file and its goldens."""

_OURS = ".files"
"""The name of a list of files that we wrote into a folder. It exists while the manifest does not list these files yet,
or no longer. If a run dies then, the next one knows from it which files are ours, and which are the user's own.
"""


class Bundle:
    """A bundle on disk: its ``path`` and its current ``manifest``; see :meth:`open`, :meth:`open_to_use` and
    :meth:`create`. ``progress`` is told of files that are compared when they are first used.
    """

    def __init__(self, path: Path, manifest: Manifest, progress: Progress = SILENT) -> None:
        self.path = path
        self.manifest = manifest
        self._folder = Folder(path)
        self._progress = progress
        self._checksums = Checksums(self._folder)
        self._passed: set[str] | None = None
        """Within :meth:`together`: all files that were listed at any time. Otherwise None."""

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> Bundle:
        """Write ``manifest``, which lists no components, into a new or empty folder."""
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
        while True:
            bundle = cls(folder, read_manifest(folder), progress)
            try:
                if mending:
                    bundle._leave_out_damaged(progress)
                else:
                    bundle.check(progress)
            except BundleError:
                if read_manifest(folder) != bundle.manifest:
                    continue  # another process has changed it meanwhile
                raise
            bundle._note_unlisted()
            return bundle

    @classmethod
    def open_to_use(cls, path: str | os.PathLike[str], progress: Progress = SILENT) -> Bundle:
        """Open a bundle after checking its manifest alone. A file is compared with its SHA-256 when it is first used,
        so that what a variant does not need costs nothing: 10 GB of other variants, for example.

        It is for who runs a bundle; who changes, packs or verifies one opens it by :meth:`open`. Raises BundleError or
        ManifestVersionError.
        """
        folder = Path(path)
        bundle = cls(folder, read_manifest(folder), progress)
        bundle._note_unlisted()
        return bundle

    def check(self, progress: Progress = SILENT, *, but: Container[str] = ()) -> dict[str, str]:
        """Compare every file with the manifest; raises ChecksumError that names the first that differs, unless it is
        among ``but``: of these returns path -> what is wrong.
        """
        files, found = self.manifest.files, dict[str, str]()
        with progress.stage("compare all checksums", len(files)) as stage:
            for path, problem in self._checksums.compare(files):
                stage.advance()
                if problem and path not in but:
                    raise self._error(path, problem)
                if problem:
                    found[path] = problem
        return found

    def _compare_first(self, owner: Component | Graph | Variant) -> None:
        """Compare those files of an owner that were not compared yet. Raises ChecksumError or BundleError."""
        records = {path: self._record(path) for path in self.manifest.files_of(owner)}
        files = {path: record for path, record in records.items() if not self._checksums.knows(path, record)}
        if not files:
            return
        with self._progress.stage(f"compare checksums of {owner.name}", len(files)) as stage:
            for path, problem in self._checksums.compare(files):
                stage.advance()
                if problem:
                    raise self._error(path, problem)

    def _record(self, path: str) -> FileRecord:
        if path not in self.manifest.files:
            raise BundleError(f"{self.path}: its manifest does not list {path!r}", remedy="Open the bundle again.")
        return self.manifest.files[path]

    def _error(self, path: str, problem: str) -> BundleError:
        """The error for a file that is not what the manifest says: of this manifest, or of the one before it."""
        if read_manifest(self.path).files.get(path) != self.manifest.files.get(path):
            return BundleError(f"{self.path} changed since it was opened: {problem}", remedy="Open it again.")
        return ChecksumError(f"{self.path}: {problem}", remedy=self._remedy(path), path=path)

    def _remedy(self, path: str) -> str:
        copy = "Copy the bundle again from where it was made, or"
        if path not in _own_files(self.manifest):
            return f"{copy} ship it again."
        variant = next(v for v in self.manifest.variants if path in v.files)
        command = f"torchlift build {self.path} `backends={variant.backend}` `precisions={variant.recipe}`"
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

    def file(self, path: str) -> Path:
        """The place on disk of a path within the bundle, which need not have been compared: what a runtime opens is
        given by :meth:`model`. Raises BundleError where a part of the way is a link.
        """
        return self._folder.place(path)

    def open_file(self, path: str) -> BinaryIO:
        """A file of the bundle, opened to read, and compared if it was not yet; the manifest itself has no checksum.
        Raises ChecksumError where it differs or cannot be read, BundleError where a part of the way is a link, or where
        it is not listed.
        """
        record, stream = None if path == MANIFEST else self._record(path), self._opened(path)
        if record is not None and not self._checksums.knows(path, record):
            problem = self._checksums.compare_stream(path, record, stream)
            if problem:
                stream.close()
                raise self._error(path, problem)
        return stream

    def read(self, path: str) -> bytes:
        """All bytes of a file of the bundle; if it was not compared yet, just these bytes are. Raises as
        :meth:`open_file` does.
        """
        record = self._record(path)
        with self._opened(path) as stream:
            if self._checksums.knows(path, record):
                return stream.read()
            data, problem = self._checksums.read(path, record, stream)
        if problem:
            raise self._error(path, problem)
        return data

    def _opened(self, path: str) -> BinaryIO:
        try:
            return self._folder.open(path)
        except OSError as error:
            raise self._error(path, unreadable(path, error)) from error

    def model(self, owner: Component | Graph | Variant) -> Path:
        """The place on disk of the model of a component (its source graph), a graph or a variant, for what opens it.

        Everything that will be read with it is known to be listed then, and was compared: the weights that the model
        names are among the files that its proof is about, and no visible file lies beside it unlisted. Raises
        BundleError otherwise, ChecksumError for a file that differs.
        """
        self._compare_first(owner)
        folder = PurePosixPath(owner.model).parent.as_posix()
        unproven = {owner.model, *companions(owner.model, self.read)} - {*self.manifest.files_of(owner)}
        beside = {path for path in self._folder.files(folder) if not PurePosixPath(path).name.startswith(".")}
        unlisted = sorted(unproven | (beside - self.manifest.files.keys()))
        if unlisted:
            raise BundleError(
                f"{self.path}: {unlisted[0]!r} would be read with {owner.model}, and is not listed as a part of it",
                remedy="Remove it if it was added later; else do not use this bundle.",
            )
        return self.file(owner.model)

    def _note_unlisted(self) -> None:
        if unlisted := self.unlisted():
            self._progress.note(
                f"{self.path} has files that its manifest does not list; none is used: {some(unlisted)}"
            )

    def may_loop(self, owner: Component | Graph | Variant) -> bool:
        """Whether running the model of a component, a graph or a variant may never end: whether it has a loop."""
        return may_loop(owner.model, self.read)

    def unlisted(self) -> list[str]:
        """The paths of files and links in the folder that the manifest does not list.

        Files that a process is just writing are left out.
        """
        return [
            path
            for path in self._folder.files()
            if path != MANIFEST
            and path not in self.manifest.files
            and not unfinished_of(PurePosixPath(path).parts[0])
            and PurePosixPath(path).name != _OURS
        ]

    def sweep(self) -> None:
        """Remove what an interrupted run left: unfinished files, new files, and files that it was about to remove.

        The caller must hold the lock.
        """
        tops = {"assets", "scores", *(component.name for component in self.manifest.components)}
        for path in self._folder.empty():
            top = PurePosixPath(path).parts[0]
            if unfinished_of(top) or top.partition(".")[0] in tops:
                self._folder.remove(path)
        for path in self._folder.files():
            pure = PurePosixPath(path)
            if unfinished_of(pure.parts[0]):
                self._folder.remove(path)
            elif pure.name == _OURS and len(pure.parts) > 1:
                names = self._folder.read(path).decode(errors="replace").splitlines()
                ours = {(pure.parent / name).as_posix() for name in names if is_inside(name)}
                self._remove(ours - self.manifest.files.keys())
                self._folder.remove(path)

    def sweep_all(self) -> None:
        """Remove all files that the manifest does not list."""
        for path in (*self._folder.files(), *self._folder.empty()):
            if path != MANIFEST and path not in self.manifest.files:
                self._folder.remove(path)

    @contextlib.contextmanager
    def adding(self, folder: str) -> Iterator[Added]:
        """Write new files: yields a temporary folder, which becomes ``folder``, or a free name like it, at the end.

        The files belong to the bundle once :meth:`commit` has listed them in the manifest. They are on the disk before
        that, so that no power failure leaves a manifest whose files have no content.
        """
        if not is_inside(folder):
            raise BundleError(f"{folder!r} is not within the bundle", remedy="Do not use this bundle.")
        name = unfinished_name(folder.replace("/", "."))
        try:
            with storage_errors(self.path):
                added = Added(self._folder.make(name))
                yield added
                files = self._folder.files(name)
                self._mark(name, files)
                self._folder.sync(name)
                added.folder = self._free(folder)
                for path in files:
                    with self._folder.open(path) as stream:
                        added.files[added.folder + path.removeprefix(name)] = record_of(stream)
                self._folder.move(name, added.folder)
        finally:
            self._folder.remove(name)

    def _free(self, folder: str) -> str:
        """The first free name of ``folder``, ``folder.2``, ``folder.3`` and so on."""
        names = (folder if n == 1 else f"{folder}.{n}" for n in itertools.count(1))
        return next(name for name in names if not self._folder.has(name))

    def commit(self, manifest: Manifest, added: Mapping[str, FileRecord] | None = None) -> None:
        """Replace the bundle's manifest in one atomic step.

        Files that nothing in it refers to are removed afterwards.
        """
        files = {**self.manifest.files, **(added or {})}
        self._checksums.written(added or {})
        manifest = replace(manifest, files=files)
        kept = manifest.referenced()
        manifest = replace(manifest, files={p: r for p, r in sorted(files.items()) if p in kept})
        if self._passed is None:
            self._write(manifest, files.keys())
        else:
            self._passed |= files.keys()
        self.manifest = manifest

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Join all commits in the block into one, which is made at its end. Where the block raises, none is made.

        A block inside another such block is a part of the outer one.
        """
        if self._passed is not None:
            yield
            return
        before, self._passed = self.manifest, set(self.manifest.files)
        try:
            yield
        except BaseException:
            self._undo(before)
            raise
        try:
            self._write(self.manifest, self._passed)
        except StorageError:
            self._undo(before)
            raise
        finally:
            self._passed = None

    def _undo(self, before: Manifest) -> None:
        self.manifest, passed, self._passed = before, self._passed or set(), None
        self._remove(passed - before.files.keys())
        self._unmark(passed)

    def _write(self, manifest: Manifest, files: Collection[str]) -> None:
        """Write a manifest. Remove those of ``files`` (listed before, or added) that it does not list."""
        gone = set(files) - manifest.files.keys()
        with storage_errors(self.path):
            try:
                for folder in {PurePosixPath(path).parent for path in gone}:
                    self._mark(folder.as_posix(), [path for path in gone if PurePosixPath(path).parent == folder])
                self._folder.write(MANIFEST, encode_manifest(manifest))
            except BaseException:
                self._unmark(gone)
                raise
        self._remove(gone)
        self._unmark(files)

    def _unmark(self, files: Collection[str]) -> None:
        for folder in {PurePosixPath(path).parent for path in files}:
            self._folder.remove((folder / _OURS).as_posix())

    def _mark(self, folder: str, files: Sequence[str]) -> None:
        names = [PurePosixPath(path).relative_to(folder).as_posix() for path in files]
        with contextlib.suppress(FileExistsError, FileNotFoundError, NotADirectoryError):
            self._folder.add(f"{folder}/{_OURS}", "".join(f"{name}\n" for name in names).encode())

    def _remove(self, paths: Collection[str]) -> None:
        for path in paths:
            self._folder.remove(path)


def _own_files(manifest: Manifest) -> set[str]:
    """The files that belong to variants only. A graph that a backend opens as it is does not count."""
    return {path for v in manifest.variants for path in v.files} - replace(manifest, variants=()).referenced()


class Added:
    """New files of a bundle. Write them into ``path``. ``folder`` and ``files`` are set when the block ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = ""
        self.files: dict[str, FileRecord] = {}
