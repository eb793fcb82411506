"""What lies in a stranger's folder is never reached through a link, and no special file is waited for."""

import os
import socket

import pytest

from torchlift.errors import BundleError
from torchlift.folder import Folder


@pytest.fixture
def outside(tmp_path):
    """A folder with a file that nobody may touch."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(b"precious")
    return folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bundle" / "image" / "source").mkdir(parents=True)
    (tmp_path / "bundle" / "image" / "source" / "file").write_bytes(b"weights")
    return Folder(tmp_path / "bundle")


def test_files_are_read_and_placed(folder):
    assert folder.read("image/source/file") == b"weights"
    assert folder.place("image/source/file").read_bytes() == b"weights"
    assert not folder.place("image/none/file").exists()


def test_the_folder_itself_may_be_reached_through_a_link(folder, tmp_path):
    (tmp_path / "latest").symlink_to(folder.path)
    assert Folder(tmp_path / "latest").read("image/source/file") == b"weights"


@pytest.mark.parametrize(
    "path", ["link", "image/link", "folder/file", "image/folder/file", "dangling", "up/bundle/image"]
)
def test_what_a_link_leads_to_is_not_read_or_placed(folder, outside, path):
    for name in ("link", "image/link"):
        (folder.path / name).symlink_to(outside / "file")
    for name in ("folder", "image/folder"):
        (folder.path / name).symlink_to(outside)
    (folder.path / "dangling").symlink_to("nowhere")
    (folder.path / "up").symlink_to("..")
    for use in (folder.open, folder.read, folder.place):
        with pytest.raises(BundleError, match="is a link") as caught:
            use(path)
        assert repr(path) in caught.value.message
        assert "cp -rL" in caught.value.remedy


@pytest.mark.parametrize("path", ["folder/new", "folder/file"])
def test_nothing_is_written_moved_or_removed_through_a_link(folder, outside, path):
    (folder.path / "folder").symlink_to(outside)
    for change in (
        lambda: folder.write(path, b"evil"),
        lambda: folder.move("image/source/file", path),
        lambda: folder.move("image/source", f"{path}/deeper"),
        lambda: folder.remove(path),
    ):
        with pytest.raises(BundleError, match="is a link"):
            change()
    assert {p.name: p.read_bytes() for p in outside.iterdir()} == {"file": b"precious"}
    assert folder.read("image/source/file") == b"weights"


def test_a_link_that_is_removed_leaves_what_it_leads_to(folder, outside):
    (folder.path / "image" / "source" / "link").symlink_to(outside)
    folder.remove("image/source/link")
    (folder.path / "image" / "source" / "inner").mkdir()
    (folder.path / "image" / "source" / "inner" / "link").symlink_to(outside)
    folder.remove("image/source")
    assert not (folder.path / "image").exists()
    assert (outside / "file").read_bytes() == b"precious"


def test_a_link_that_is_written_over_is_replaced(folder, outside):
    (folder.path / "manifest.json").symlink_to(outside / "file")
    folder.write("manifest.json", b"new")
    assert folder.read("manifest.json") == b"new"
    assert (outside / "file").read_bytes() == b"precious"


def test_a_new_folder_is_not_made_where_a_link_is(folder, outside):
    (folder.path / "new").symlink_to(outside)
    with pytest.raises(FileExistsError):
        folder.make("new")


def test_files_are_listed_with_links_and_no_link_is_followed(folder, outside):
    (folder.path / "image" / "link").symlink_to(outside)
    (folder.path / "image" / "empty" / "inner").mkdir(parents=True)
    assert folder.files() == ["image/link", "image/source/file"]
    assert folder.files("image/source") == ["image/source/file"]
    assert folder.empty() == ["image/empty/inner"]


def test_a_pipe_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder.path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        folder.open("pipe")


def test_a_socket_and_a_folder_are_no_files(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.path)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        with pytest.raises(OSError, match="socket"):
            folder.open("socket")
    with pytest.raises(IsADirectoryError):
        folder.open("image")


def test_folders_without_end_are_not_followed_to_it(folder):
    deep = folder.path.joinpath(*["x"] * 60)
    deep.mkdir(parents=True)
    assert folder.files() == ["image/source/file", "/".join(["x"] * 33)]


def test_a_folder_that_may_not_be_read_is_passed_over(folder, monkeypatch):
    scandir = os.scandir
    closed = (folder.path / "image").stat().st_ino

    def refusing(descriptor):
        if os.fstat(descriptor).st_ino == closed:
            raise PermissionError(13, "Permission denied")
        return scandir(descriptor)

    monkeypatch.setattr(os, "scandir", refusing)
    (folder.path / "other").write_bytes(b"")
    assert folder.files() == ["other"]


def test_a_folder_is_removed_with_those_above_that_are_empty_then(folder):
    (folder.path / "image" / "other").mkdir()
    folder.remove("image/source/file")
    assert [p.name for p in (folder.path / "image").iterdir()] == ["other"]
    folder.remove("image/other")
    assert list(folder.path.iterdir()) == []
    folder.remove("image/other")
