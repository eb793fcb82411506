"""Damaged inputs of every kind end in an answer or in an error that names the remedy, and change nothing elsewhere.

A failure names its door and seed. ``FUZZ=manifests:17 pytest tests/fuzz`` repeats it; several are parted by commas.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest
from shipped import clip  # noqa: F401

from torchlift.apart import Apart
from torchlift.errors import BackendError

HERE = Path(__file__).parent

QUICK, ALL = 10, 154
"""Inputs for each door: in make test, and in make test-full (2,002 of 13 doors)."""

PATIENCE = 150.0
"""Seconds for one input, on a machine that is busy."""

DOORS = (
    *("manifests", "goldens", "graphs", "programs", "checkpoints", "configs", "vocabularies", "pictures", "texts"),
    *("data", "archives", "options", "python"),
)


class Fuzzer:
    """Uses damaged inputs in a process of its own, and starts another where that hangs or dies."""

    def __init__(self, top, *materials):
        self._top, self._materials = top, [str(path) for path in materials]
        self._process = None

    def __call__(self, door, seed):
        """(kind, said) of one input."""
        folder = self._top / f"{door}-{seed}"
        try:
            if self._process is None:
                self._process = Apart("the fuzzer", "far")
                self._process.ask("prepare", *self._materials, patience=600)
            return self._process.ask("run", door, seed, str(folder), patience=PATIENCE)
        except BackendError as error:
            self.close()
            return "failure", str(error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.close()
        self._process = None


@pytest.fixture(scope="module")
def fuzzer(clip, built_once, tmp_path_factory):  # noqa: F811
    top = tmp_path_factory.mktemp("fuzz")
    sys.path.insert(0, str(HERE))
    made = Fuzzer(top, built_once.path, clip.path, clip.source, top / "made")
    yield made
    made.close()
    sys.path.remove(str(HERE))


def chosen(door, seeds):
    """The seeds of a door: those that FUZZ names, where it is set."""
    if "FUZZ" not in os.environ:
        return seeds
    pairs = (pair.partition(":") for pair in os.environ["FUZZ"].split(","))
    return [int(seed) for name, _, seed in pairs if name == door]


def failures(fuzzer, door, seeds):
    """What was neither an answer nor an error, for each of the seeds; and how many were of which kind."""
    found, kinds = [], {"answer": 0, "error": 0, "failure": 0}
    for seed in chosen(door, seeds):
        kind, said = fuzzer(door, seed)
        kinds[kind] += 1
        if kind == "failure":
            found.append(f"FUZZ={door}:{seed}\n{said}")
    print(door, kinds)  # noqa: T201
    return found, kinds


@pytest.mark.parametrize("door", DOORS)
def test_what_is_damaged_is_answered_or_refused(fuzzer, door):
    found, kinds = failures(fuzzer, door, range(QUICK))
    assert not found, "\n\n".join(found)
    assert kinds["error"] or "FUZZ" in os.environ, "nothing was refused: is anything damaged?"


@pytest.mark.full
@pytest.mark.parametrize("door", DOORS)
def test_so_is_much_more(fuzzer, door):
    found, _ = failures(fuzzer, door, range(QUICK, ALL))
    assert not found, "\n\n".join(found)
