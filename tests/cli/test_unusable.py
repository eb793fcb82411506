"""Names, numbers and places on the command line that cannot be used are told in words."""

import json
import zipfile

import click
import pytest
from shipped import misused, refused, torchlift

from torchlift.archive import pack
from torchlift.cli import display
from torchlift.cli.common import parse_batches, parse_sizes, whole_number
from torchlift.cli.gpu import parse_devices

LONG = "n" * 300
OUTPUTS = [LONG, "n" * 250, "file/inner", "/proc/none/inner", "/proc/none"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a file in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    yield tmp_path
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_cannot_be_written(built, here, output):
    before = sorted(here.iterdir())
    message, _ = refused(torchlift("pack", built.path, "-o", output))
    assert output.partition("/")[0] in message
    assert sorted(here.iterdir()) == before
    file = pack(built.path, here / "bundle.zip")
    message, _ = refused(torchlift("unpack", file, "-o", output))
    assert output.partition("/")[0] in message
    assert sorted(here.iterdir()) == sorted([*before, file])


@pytest.mark.parametrize("output", ["file", "file/inner", LONG, "/proc/none"])
def test_a_source_is_not_read_for_an_output_that_cannot_be(here, output):
    (here / "net.py").write_text("def build():\n    raise SystemExit('it was read')\n")
    before = sorted(here.iterdir())
    refused(torchlift("export", "net.py:build", "-o", output))
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("command", ["inspect", "verify", "run", "pack", "score", "bench", "build"])
@pytest.mark.parametrize("bundle", [LONG, "file", "/dev/null", "none"])
def test_what_is_no_bundle(here, command, bundle):
    before = sorted(here.iterdir())
    message, _ = refused(torchlift(command, bundle))
    assert bundle[:100] in message
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_an_entry_of_an_archive_without_a_usable_name(built, tmp_path, name):
    file = pack(built.path, tmp_path / "bundle.zip")
    entry = zipfile.ZipInfo("x" * len(name.encode()) or "x")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(entry, b"")
        entry.filename = entry.orig_filename = name
        archive._didModify = True
    refused(torchlift("unpack", file, "-o", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


NUMBERS = ["9" * 5001, "1" + "0" * 12, "2147483648", "-1", "1.5", "x", "１２３４５６７８９０１"]


@pytest.mark.parametrize("number", NUMBERS, ids=len)
def test_a_number_of_rows_that_cannot_be(here, number):
    message = misused(torchlift("bench", "none", "--batch", number))
    assert number[:100] in message
    assert len(message) < 300
    assert misused(torchlift("bench", "none", "--size", f"sequence={number}"))
    with pytest.raises(click.UsageError):
        parse_devices(number)


def test_a_number_that_can_be():
    assert whole_number("2147483647") == 2147483647
    assert parse_batches("1, 8,16") == (1, 8, 16)
    assert parse_sizes(("sequence=24",)) == {"sequence": 24}


def test_json_has_what_no_encoding_has_as_an_escape(capsys):
    display.print_json({"\udc80猫": [1.5, float("nan"), float("inf"), "\x1b[2J"], "none": None, "empty": []})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"\udc80猫": [1.5, None, None, "\x1b[2J"], "none": None, "empty": []}
    assert "猫" in printed
    assert "\\udc80" in printed
    assert "\x1b" not in printed
