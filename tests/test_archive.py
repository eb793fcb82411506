import contextlib
import os
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

import torchlift.archive
from torchlift.archive import pack, unpack
from torchlift.bundle import Bundle
from torchlift.errors import BundleError, ChecksumError, StorageError
from torchlift.manifest import MANIFEST
from torchlift.progress import Progress, Stage
from torchlift.staging import locked


@pytest.fixture
def archive(built, tmp_path):
    return pack(built.path, tmp_path / "tiny.zip")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def added(archive, name, content=b"evil", mode=0o100644):
    """Put one more entry into an archive, with its name exactly as given."""
    entry = zipfile.ZipInfo("x")
    entry.filename = name
    entry.external_attr = mode << 16
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(entry, content)


class Recorder(Progress):
    def __init__(self):
        self.steps = {}

    def stage(self, title, total=None):
        return self._Recorded(self.steps, title, total)

    class _Recorded(Stage):
        def __init__(self, steps, title, total):
            self.steps, self.title = steps, title
            steps[title] = [0, total]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def advance(self, steps=1):
            self.steps[self.title][0] += steps


def test_a_bundle_comes_out_as_it_went_in(built, archive, tmp_path):
    again = unpack(archive, tmp_path / "deep" / "again")
    assert again.manifest == built.manifest
    assert Bundle.open(tmp_path / "deep" / "again").manifest == built.manifest
    assert names(tmp_path) == ["built", "deep", "tiny.zip"]
    assert names(tmp_path / "deep") == ["again"]


def test_an_archive_stands_beside_its_bundle_unless_told(built):
    assert pack(built.path) == built.path.with_name("built.zip")


def test_weights_are_stored_as_they_are(built, archive):
    with zipfile.ZipFile(archive) as file:
        assert {e.filename for e in file.infolist()} == {MANIFEST, *built.manifest.files}
        assert {e.compress_type for e in file.infolist()} == {zipfile.ZIP_STORED}


def test_files_from_before_zip_knew_dates(built, tmp_path):
    for file in built.manifest.files:
        os.utime(built.file(file), (0, 0))
    assert unpack(pack(built.path, tmp_path / "old.zip"), tmp_path / "again").manifest == built.manifest


def test_progress_counts_the_files(built, tmp_path):
    recorder, files = Recorder(), len(built.manifest.files)
    count = files + 1
    unpack(pack(built.path, tmp_path / "tiny.zip", recorder), tmp_path / "again", recorder)
    assert recorder.steps == {
        "compare all checksums": [files, files],
        "pack built": [count, count],
        "unpack tiny.zip": [count, count],
    }


def test_a_damaged_bundle_is_not_packed(built, tmp_path):
    built.file("model/source/model.onnx").unlink()
    with pytest.raises(ChecksumError, match=r"model/source/model\.onnx is missing"):
        pack(built.path, tmp_path / "tiny.zip")
    assert names(tmp_path) == ["built"]


PACK_ON_A_FULL_DISK = """
import resource
from pathlib import Path
from torchlift.archive import pack
from torchlift.errors import StorageError

resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
except StorageError as error:
    print(error)
"""


def test_a_full_disk_leaves_the_archive_before(built, tmp_path, python):
    (tmp_path / "tiny.zip").write_bytes(b"before")
    done = python(PACK_ON_A_FULL_DISK, built.path, tmp_path / "tiny.zip")
    assert "the disk is full" in done.stdout, done.stderr
    assert (tmp_path / "tiny.zip").read_bytes() == b"before"
    assert names(tmp_path) == ["built", "tiny.zip"]


@pytest.mark.parametrize(
    "name",
    ["../evil", "/abs", "a/../../evil", "a/..", "..\\evil", "a\\..\\..\\evil", "C:/evil", "C:evil", "a/b:c"],
)
def test_an_entry_outside_the_bundle_is_refused(archive, tmp_path, name):
    added(archive, name)
    before = names(tmp_path)
    with pytest.raises(BundleError, match="holds the entry") as caught:
        unpack(archive, tmp_path / "again")
    assert repr(name) in caught.value.message
    assert caught.value.remedy == "Do not use this file."
    assert names(tmp_path) == before


def test_a_link_is_refused(archive, tmp_path):
    added(archive, "link", b"/etc", mode=0o120777)
    with pytest.raises(BundleError, match="holds the entry 'link'"):
        unpack(archive, tmp_path / "again")
    assert names(tmp_path) == ["built", "tiny.zip"]


def test_an_archive_that_was_cut_off(archive, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=r"tiny\.zip is not a readable \.zip") as caught:
        unpack(archive, tmp_path / "again")
    assert "Pack the bundle again" in caught.value.remedy
    assert names(tmp_path) == ["built", "tiny.zip"]


def test_an_archive_with_a_changed_byte(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(BundleError, match=r"tiny\.zip is not a readable \.zip: Bad CRC-32"):
        unpack(archive, tmp_path / "again")
    assert names(tmp_path) == ["built", "tiny.zip"]


def test_an_archive_that_is_locked_with_a_password(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + flags] |= 1
            at = content.find(mark, at + 1)
    archive.write_bytes(content)
    with pytest.raises(BundleError, match=r"tiny\.zip is not a readable \.zip: .*encrypted"):
        unpack(archive, tmp_path / "again")


def test_entries_that_get_in_each_others_way(archive, tmp_path):
    added(archive, f"{MANIFEST}/below")
    with pytest.raises(BundleError, match="holds the entry"):
        unpack(archive, tmp_path / "again")
    assert names(tmp_path) == ["built", "tiny.zip"]


@pytest.mark.parametrize("content", [b"", b"PK", b"manifest.json"])
def test_a_file_that_is_no_archive(tmp_path, content):
    (tmp_path / "tiny.zip").write_bytes(content)
    with pytest.raises(BundleError, match=r"tiny\.zip is not a readable \.zip: File is not a zip file"):
        unpack(tmp_path / "tiny.zip", tmp_path / "again")


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(BundleError, match=r"none\.zip is not a readable \.zip: .*No such file"):
        unpack(tmp_path / "none.zip", tmp_path / "again")
    assert names(tmp_path) == []


def test_a_folder_in_the_place_of_the_archive(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match=r"folder is not a readable \.zip: .*Is a directory"):
        unpack(tmp_path / "folder", tmp_path / "again")


def test_an_archive_of_something_else(tmp_path):
    added(tmp_path / "other.zip", "readme.txt")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        unpack(tmp_path / "other.zip", tmp_path / "again")
    assert names(tmp_path) == ["other.zip"]


def test_an_archive_whose_content_was_exchanged(built, tmp_path):
    file = tmp_path / "tiny.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in (MANIFEST, *built.manifest.files):
            content = built.file(name).read_bytes()
            archive.writestr(name, content[::-1] if name.endswith("model.onnx") else content)
    with pytest.raises(ChecksumError, match=r"model\.onnx was changed"):
        unpack(file, tmp_path / "again")
    assert names(tmp_path) == ["built", "tiny.zip"]


def test_a_target_that_exists_is_left_alone(archive, built, tmp_path):
    before = names(built.path)
    with pytest.raises(BundleError, match="built exists") as caught:
        unpack(archive, built.path)
    assert "does not exist yet" in caught.value.remedy
    assert names(built.path) == before


def test_a_target_that_another_process_writes(archive, tmp_path):
    with (
        locked(tmp_path / "again"),
        pytest.raises(BundleError, match="again is being written by another process"),
    ):
        unpack(archive, tmp_path / "again")


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(StorageError, match=r"are needed, 0\.00 GB are free"):
        unpack(archive, tmp_path / "again")
    assert names(tmp_path) == ["built", "tiny.zip"]


def rewritten(archive, change):
    """Write an archive anew with what ``change`` makes of its entries: name -> bytes."""
    with zipfile.ZipFile(archive) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    change(entries)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)


@pytest.fixture
def written(monkeypatch):
    """The names of the files that an unpack began to write."""
    found, write = [], torchlift.archive._write
    monkeypatch.setattr(torchlift.archive, "_write", lambda *given: found.append(given[2]) or write(*given))
    return found


@pytest.mark.parametrize("name", ["numpy.py", "model/source/sitecustomize.py", "model/source/more.data", "assets/x"])
def test_an_entry_that_the_manifest_does_not_list_is_refused_before_anything_is_written(
    archive, tmp_path, written, name
):
    added(archive, name)
    with pytest.raises(BundleError, match="holds the entry") as caught:
        unpack(archive, tmp_path / "again")
    assert repr(name) in caught.value.message
    assert (names(tmp_path), written) == (["built", "tiny.zip"], [])


def test_an_entry_that_is_there_twice_is_refused(archive, tmp_path, written):
    with pytest.warns(UserWarning, match="Duplicate name"):
        added(archive, "model/source/model.onnx")
    with pytest.raises(BundleError, match=r"holds the entry 'model/source/model\.onnx'"):
        unpack(archive, tmp_path / "again")
    assert (names(tmp_path), written) == (["built", "tiny.zip"], [])


def test_the_manifest_is_looked_at_before_the_content_is_written(archive, tmp_path, written):
    rewritten(archive, lambda entries: entries.update({"model/source/model.onnx": bytes(50_000_000)}))
    with pytest.raises(ChecksumError, match=r"model\.onnx has 50,000,000 bytes, the manifest says"):
        unpack(archive, tmp_path / "again")
    rewritten(archive, lambda entries: entries.update({MANIFEST: b"{}"}))
    with pytest.raises(BundleError, match="is not a torchlift manifest"):
        unpack(archive, tmp_path / "again")
    assert (names(tmp_path), written) == (["built", "tiny.zip"], [])


def test_a_file_that_the_archive_lacks_is_named(archive, tmp_path, written):
    rewritten(archive, lambda entries: entries.pop("model/source/model.onnx"))
    with pytest.raises(ChecksumError, match=r"model/source/model\.onnx is missing"):
        unpack(archive, tmp_path / "again")
    assert (names(tmp_path), written) == (["built", "tiny.zip"], [])


def test_a_manifest_without_end_is_not_read(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(torchlift.archive, "_LARGEST_MANIFEST", 100)
    with pytest.raises(BundleError, match=r"manifest\.json has .* bytes"):
        unpack(archive, tmp_path / "again")


def test_a_pipe_in_the_place_of_the_archive_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(BundleError, match="is no regular file"):
        unpack(tmp_path / "pipe.zip", tmp_path / "again")


def test_two_that_pack_into_one_file_at_a_time_leave_a_whole_one(built, tmp_path):
    both = threading.Barrier(2)

    class Meeting(Progress):
        @contextlib.contextmanager
        def stage(self, title, total=None):
            if title.startswith("pack"):
                both.wait(30)
            yield Stage()
            if title.startswith("pack"):
                both.wait(30)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(pack, built.path, tmp_path / "tiny.zip", Meeting()) for _ in range(2)]
        assert [job.result() for job in jobs] == [tmp_path / "tiny.zip"] * 2
    assert unpack(tmp_path / "tiny.zip", tmp_path / "again").manifest == built.manifest
    assert names(tmp_path) == ["again", "built", "tiny.zip"]


def test_a_bundle_is_not_packed_into_itself(built):
    with pytest.raises(BundleError, match="is in the bundle that is packed"):
        pack(built.path, built.path / "model" / "all.zip")
    assert not (built.path / "model" / "all.zip").exists()
