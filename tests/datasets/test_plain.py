import json
import zipfile

import numpy as np
import pytest
from datafiles import read
from safetensors.numpy import save_file

from torchlift.datasets import ArrayData, TextData
from torchlift.errors import DataError, UnsafeDataError


def test_texts_are_the_lines_of_a_file(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\ufeff猫\n\n 狗 \n鸟", "utf-8")
    data = read(file)
    assert (type(data), data.texts) == (TextData, ("猫", "狗", "鸟"))
    assert read(file, limit=2).texts == ("猫", "鸟")


def test_texts_of_a_jsonl_are_its_field_text(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"text_id": 5, "text": "猫"}) + '\n{"text": "狗"}\n{"caption": "x"}\n')
    data = read(file)
    assert data.texts == ("猫", "狗")
    assert data.skips.named == ["texts.jsonl, line 3: it has no string text"]


@pytest.mark.parametrize(("name", "content"), [("a.txt", b"\n"), ("a.jsonl", b"{}\n"), ("a.txt", b"\xff\xfe\xff\n")])
def test_a_file_without_texts_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="has no texts"):
        read(tmp_path / name)


@pytest.mark.parametrize("end", ["npz", "safetensors"])
def test_arrays_are_read_by_name(tmp_path, end):
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "ids": np.arange(3)}
    file = tmp_path / f"calibration.{end}"
    np.savez(file, **arrays) if end == "npz" else save_file(arrays, file)
    data = read(file)
    assert (type(data), {*data.arrays}) == (ArrayData, {"x", "ids"})
    for name, array in arrays.items():
        np.testing.assert_array_equal(data.arrays[name], array)
        assert data.arrays[name].dtype == array.dtype


@pytest.mark.parametrize("end", ["npz", "safetensors"])
def test_broken_arrays_are_refused(tmp_path, end):
    (tmp_path / f"a.{end}").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=f"a.{end} cannot be read"):
        read(tmp_path / f"a.{end}")


def test_a_file_without_arrays_is_refused(tmp_path):
    zipfile.ZipFile(tmp_path / "a.npz", "w").close()
    with pytest.raises(DataError, match="has no arrays"):
        read(tmp_path / "a.npz")


def test_arrays_of_objects_are_pickles_and_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    with pytest.raises(UnsafeDataError, match=r"the array x of .* holds pickled objects") as caught:
        read(tmp_path / "a.npz", trust_pickle=True)
    assert "numbers" in caught.value.remedy
