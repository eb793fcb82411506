"""The code in the documents works: it is run here, page by page, on a small model and small data.

The code of CONTRIBUTING.md is run by ``test_contributing.py``, which also registers what that adds.
A block that cannot be run here has a comment before it, ``<!-- not run: REASON -->``. Its Python must still parse, and
its commands and options must exist.
"""

import ast
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata

import datafiles
import numpy as np
import pages
import pytest
import shipped
import staged
from pages import PAGES, REPOSITORY, RUN, SHOWN
from workers import made_once

SHIP = "torchlift ship chinese-clip --checkpoint f.pt --data muge/ --within recall@1=0.2 -o clip/"
"""Its result is in the folder of every page, so that it is run once."""

BLOCKS = [block for page in PAGES for block in pages.blocks(page)]
ELSEWHERE = "CONTRIBUTING.md"
RUNNABLE = [block for block in BLOCKS if block.language in RUN and not block.reason and block.page != ELSEWHERE]
NOT_RUN = [block for block in BLOCKS if block.reason]

WORDS = "猫狗鸟草海日车山水火树花"


def _data(folder):
    """Retrieval data in three splits, twelve pictures and a text for each."""
    pictures = {100 + i: datafiles.encoded(i, (40, 36)) for i in range(len(WORDS))}
    texts = [datafiles.text(900 + i, [100 + i], f"一只{word}") for i, word in enumerate(WORDS)]
    for split in ("train", "valid", "test"):
        datafiles.retrieval(folder, pictures, texts, split)


def _recommender():
    """The module of the example that docs/modules.md shows in part."""
    spec = importlib.util.spec_from_file_location("net", REPOSITORY / "examples" / "recommender" / "net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _arrays():
    """Five rows of what the recommender takes."""
    draw = np.random.default_rng(0)
    return {
        "history": draw.integers(1, 5000, (5, 12)),
        "ratings": draw.uniform(1, 5, (5, 12)).astype(np.float32),
        "candidate": draw.integers(1, 5000, 5),
    }


def _names(page):
    """The Python names that a page uses and does not define: your own pictures and arrays."""
    if page == "modules.md":
        import torch

        net = _recommender()
        return {**vars(net), **_arrays(), "GENRES": tuple("abcdefgh"), "Net": torch.nn.Identity, "torch": torch}
    picture = shipped.pictures(1)[0]
    return {"jpeg_bytes": datafiles.encoded(1, form="JPEG"), "pil_image": picture, "uint8_array": np.asarray(picture)}


def _hasten(patch, code=""):
    """Make up times, which takes no process for each contender, and hide runtimes that the code does not name."""
    version = metadata.version
    hidden = {name for name in ("openvino", "nncf") if name not in code}

    def of_what_is_there(distribution):
        if distribution in hidden:
            raise metadata.PackageNotFoundError(distribution)
        return version(distribution)

    patch.setattr("torchlift.stages.bench.measure_latency", staged.made_up)
    patch.setattr(metadata, "version", of_what_is_there)


def _lay_out(folder):
    """Fill a folder with all that the pages name, and the bundle that SHIP makes of it."""
    shipped.checkpoint(folder).rename(folder / "f.pt")
    _data(folder / "muge")
    (folder / "cat.jpg").write_bytes(datafiles.encoded(0, (60, 50), "JPEG"))
    for name, array in _arrays().items():
        np.save(folder / f"{name}.npy", array)
    for name in ("examples", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _hasten(patch)
        done = shipped.torchlift(*shlex.split(SHIP)[1:])
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def folder(tmp_path_factory, tmp_path, monkeypatch):
    """A folder with all that the pages name, which one page may change, as the current folder."""
    laid_out = made_once(tmp_path_factory, "documents", _lay_out)
    copy = shutil.copytree(laid_out, tmp_path / "page", symlinks=True)
    monkeypatch.chdir(copy)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return copy


def _run_line(line, place):
    words = shlex.split(line, comments=True)
    if words[0] == "cd":
        os.chdir(words[1])
    elif words[0] == "torchlift":
        done = shipped.torchlift(*words[1:])
        assert done.code == 0, f"{place}: {line}\n{done.out}{done.err}"
    else:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{place}: {line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in RUNNABLE))
def test_the_code_of_a_page_runs(page, folder, monkeypatch):
    found = [block for block in RUNNABLE if block.page == page]
    _hasten(monkeypatch, "".join(block.code for block in found))
    names = {"__name__": page, **_names(page)}
    for block in found:
        if block.language == "python":
            exec(compile(block.code, block.place, "exec", dont_inherit=True), names)
        else:
            for line in block.commands:
                if line != SHIP:
                    _run_line(line, block.place)


def test_the_first_command_of_the_readme_is_among_what_is_run():
    assert SHIP in [line for block in RUNNABLE if block.page == "README.md" for line in block.commands]


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: f"{block.place} {block.reason}")
def test_a_block_that_is_not_run_says_why(block):
    assert block.language in RUN
    if block.language == "python":
        ast.parse(block.code)
    else:
        assert block.commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_its_language(page):
    assert {block.language for block in pages.blocks(page)} <= {*RUN, *SHOWN}
    assert pages.prose(page).count("```") == 0
    marks = re.findall("^ *<!-- not run", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(marks) == len([block for block in pages.blocks(page) if block.reason])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page):
    lines = [line for block in pages.blocks(page) if block.language in ("sh", "console") for line in block.commands]
    lines += [code for code in pages.inline(page) if code.startswith("torchlift ")]
    assert {line: pages.mistakes(line) for line in lines if pages.mistakes(line)} == {}
    options = {code.split()[0].partition("=")[0] for code in pages.inline(page) if code.startswith("--")}
    assert options - pages.options_of(None) == set()


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("torchlift ship net.py:build --data muge/ -o net/", []),
        ("torchlift ship net.py:build --date muge/ -o net/", ["--date"]),
        ("torchlift shop net.py:build", ["shop"]),
        ("X=1 torchlift build clip/ --precision=fp16 --presicion int8", ["--presicion"]),
        ("python benchmarks/gpu.py --work bench", []),
    ],
)
def test_a_mistake_in_a_command_is_found(line, wrong):
    assert pages.mistakes(line) == wrong
