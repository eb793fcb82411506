"""A pipe in the place of a file, which a stranger's folder may hold, is an error, and nobody waits for its writer."""

import os

import pytest

from torchlift.datasets import open_data
from torchlift.datasets.base import FileImages
from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError, DataError, InputError
from torchlift.families.torch_file import load_torch_file
from torchlift.processing.image import prepared
from torchlift.storage import open_regular


@pytest.fixture
def pipe(tmp_path):
    def make(name):
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    return make


def test_what_is_no_regular_file_is_not_opened(pipe, tmp_path):
    with pytest.raises(OSError, match="no regular file"):
        open_regular(pipe("a"))
    with pytest.raises(OSError, match="no regular file"):
        open_regular("/dev/zero")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"abc"
    with pytest.raises(OSError, match="symbolic link"):
        open_regular(tmp_path / "link", links=False)


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.txt", "arrays.npz", "arrays.safetensors"])
def test_data(pipe, name):
    with pytest.raises(DataError):
        open_data(pipe(name))


def test_a_picture(pipe, tmp_path):
    with pytest.raises(InputError, match="no regular file"):
        prepared(ImageInput((8, 8)), pipe("a.jpg"))
    with pytest.raises(DataError, match="no regular file"):
        FileImages(tmp_path, ["a.jpg"]).read(0)


def test_a_checkpoint(pipe):
    with pytest.raises(CheckpointError):
        load_torch_file(pipe("f.pt"), "Give a checkpoint.")
