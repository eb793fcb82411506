import errno
import os
import sys
from pathlib import Path

import pytest

from torchlift import storage
from torchlift.errors import BackendError, BackendUnavailableError, SignatureError, StorageError
from torchlift.storage import atomic_write, free_space, require_space, storage_errors, without_folders

LIMITED = """
import resource
from pathlib import Path
from torchlift.errors import StorageError
from torchlift.storage import atomic_write

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    atomic_write(Path(sys.argv[1]), b"new" * 1000)
except StorageError as error:
    print(error)
"""


def test_a_file_is_replaced_and_nothing_else_left(tmp_path):
    file = tmp_path / "file"
    for content in (b"old", b"new"):
        atomic_write(file, content)
        assert file.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limits on file sizes")
def test_a_full_disk_leaves_the_old_file(tmp_path, python):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    done = python(LIMITED, file)
    assert f"{tmp_path}: the disk is full" in done.stdout, done.stderr
    assert "what was finished is kept" in done.stdout
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    file = tmp_path / "file"
    file.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(file, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("file", b"old")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_is_full_says_so(tmp_path, number):
    with pytest.raises(StorageError, match=r"the disk is full \(\d+ MB free\)") as caught, storage_errors(tmp_path):
        raise OSError(number, "no space")
    assert str(tmp_path) in caught.value.message
    assert "run the same command again" in caught.value.remedy


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_may_not_be_written_says_so(tmp_path, number):
    with pytest.raises(StorageError, match="may not be written: not for you") as caught, storage_errors(tmp_path):
        raise OSError(number, "not for you")
    assert str(tmp_path) in caught.value.message
    assert "-o" in caught.value.remedy


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="the system has no folder that nobody may write")
def test_a_folder_of_the_kernel_may_not_be_written():
    with pytest.raises(StorageError, match="/sys may not be written"):
        atomic_write(Path("/sys/torchlift"), b"")


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone"), ValueError("3"), SignatureError("3")])
def test_other_errors_pass_as_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, storage_errors(tmp_path):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [RuntimeError("iostream error"), BackendError("OpenVINO cannot convert it")])
def test_a_native_library_that_fails_on_a_scarce_disk_is_put_down_to_the_disk(tmp_path, monkeypatch, error):
    monkeypatch.setattr(storage, "free_space", lambda folder: 2**20)
    with pytest.raises(StorageError, match=r"the disk is full \(1 MB free\)") as caught, storage_errors(tmp_path):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [SignatureError("x"), BackendUnavailableError("not installed")])
def test_what_torchlift_found_itself_is_not_put_down_to_the_disk(tmp_path, monkeypatch, error):
    monkeypatch.setattr(storage, "free_space", lambda folder: 2**20)
    with pytest.raises(type(error)) as caught, storage_errors(tmp_path):
        raise error
    assert caught.value is error


def test_space_that_is_missing_is_said_in_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "free_space", lambda folder: 1_500_000_000)
    with pytest.raises(StorageError, match=r"2\.00 GB are needed, 1\.50 GB are free") as caught:
        require_space(tmp_path, 2_000_000_000)
    assert "another disk" in caught.value.remedy
    assert require_space(tmp_path, 1_500_000_000) is None


def test_space_for_a_folder_that_does_not_exist_yet(tmp_path):
    assert free_space(tmp_path / "a" / "b") == pytest.approx(free_space(tmp_path), rel=0.5)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Load model from /tmp/a b/c.onnx failed", "Load model from a b/c.onnx failed"),
        ("Load model from /home/me/net/model.onnx failed:/usr/lib/x.so", "Load model from model.onnx failed:x.so"),
        ("'/home/me/model.onnx' is damaged", "'model.onnx' is damaged"),
        ("3 / 4 of a/b/c and 1/2", "3 / 4 of a/b/c and 1/2"),
    ],
)
def test_folders_are_cut_from_what_a_runtime_says(text, kept):
    assert without_folders(text) == kept
