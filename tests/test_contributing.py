"""The examples of CONTRIBUTING.md work: a family, a backend and a task are added by a line each, and used by all.

Their code is taken from the page as it is. Only the registries get a line each, and times are made up.
"""

import contextlib
import importlib
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pages
import pytest
import shipped
import staged
from safetensors.numpy import save_file
from workers import made_once

import torchlift as tl
from torchlift import backends, families, tasks
from torchlift.datasets import ReadOptions
from torchlift.errors import CheckpointError, DataError, SourceError
from torchlift.evidence import Measure
from torchlift.families.base import LoadOptions
from torchlift.tasks import open_task

PAGE = pages.REPOSITORY / "CONTRIBUTING.md"
REGISTRIES = {"families": families.FAMILIES, "backends": backends.BACKENDS, "tasks": tasks.TASKS}

LATE = ("torchlift.api", "torchlift.cli.run", "torchlift.jobs.ship", "torchlift.pipelines.tensors")
"""What a ship and a run import when they are asked for, with all that these import."""

LINE = re.compile(r'`"(?P<name>[\w-]+)": "torchlift\.(?P<room>\w+)\.(?P<module>\w+):(?P<kind>\w+)",`')
"""What a contributor adds to a registry, as the page shows it."""


@dataclass(frozen=True)
class Added:
    """What the page adds to a room of torchlift: the line of the registry, and the code of the module."""

    name: str
    room: str
    module: str
    kind: str
    code: str


def sections():
    """Heading -> the text below it."""
    parts = re.split(r"^## (.+)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def code_of(heading, language="python"):
    """The code of a section, in one language."""
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", sections()[heading], re.MULTILINE | re.DOTALL))


ADDED = [
    Added(**LINE.search(sections()[heading]).groupdict(), code=code_of(heading))
    for heading in ("Add a family", "Add a backend", "Add a task")
]
FAMILY, BACKEND, TASK = ADDED


@contextlib.contextmanager
def registered(folder):
    """The page's modules in a folder, each with its line in a registry; ``folder`` is the current one meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for added in ADDED:
            (folder / f"{added.module}.py").write_text(added.code, "utf-8")
            patch.setitem(REGISTRIES[added.room], added.name, f"{added.module}:{added.kind}")
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        try:
            yield patch
        finally:
            for added in ADDED:
                sys.modules.pop(added.module, None)
            forget()


def forget():
    """Backends are made once for each name."""
    backends.backend.cache_clear()
    backends.forms.cache_clear()


def contents():
    """What every module of torchlift holds, by module and name; of a class, what each attribute is."""
    found = {}
    for name, module in sys.modules.items():
        if name.partition(".")[0] == "torchlift":
            found[name] = module
            for attribute, value in vars(module).items():
                found[name, attribute] = value
                if isinstance(value, type) and value.__module__ == name:
                    found.update({(name, attribute, part): held for part, held in vars(value).items()})
    return found


def _tried(folder):
    """The section that tries all three, run; and what of torchlift was replaced meanwhile."""
    backends.forms()  # imports all backends
    for name in LATE:
        importlib.import_module(name)
    before = contents()
    registries = {room: dict(registry) for room, registry in REGISTRIES.items()}
    with registered(folder) as patch:
        patch.setattr(shipped.MEASURE, staged.in_this_process)
        names = {"__name__": "tried"}
        exec(compile(code_of("Try what you added"), PAGE.name, "exec", dont_inherit=True), names)
        (line,) = code_of("Try what you added", "sh").splitlines()
        shown = [shipped.torchlift(*shlex.split(line)[1:], *more) for more in ((), ("--json",))]
        after = contents()
        added = {room: {*registry} - {*registries[room]} for room, registry in REGISTRIES.items()}
        kept = all(REGISTRIES[room].items() >= lines.items() for room, lines in registries.items())
        with tl.open("weather/") as weather:
            rows = weather({"x": [3, 25.5, -7]})["logits"]
    replaced = {key for key, value in before.items() if after.get(key, value) is not value or key not in after}
    return Tried(folder / "weather", shown, rows, replaced, added, kept)


@dataclass(frozen=True)
class Tried:
    """What the section left: the bundle, what ``torchlift run`` said, labels for three numbers, and which names of
    torchlift were ``replaced``, what was ``added`` to registries and whether all else in them was ``kept``.
    """

    path: Path
    shown: list
    rows: list
    replaced: set
    added: dict
    kept: bool


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    return made_once(tmp_path_factory, "contributing", _tried)


@pytest.fixture
def here(tried, tmp_path):
    """A folder with what the section wrote, and with all three registered."""
    folder = shutil.copytree(tried.path.parent, tmp_path / "here")
    with registered(folder):
        yield folder


def test_the_added_variant_is_proven_scored_and_chosen_under_its_gate(tried):
    manifest = tl.Bundle.open(tried.path).manifest
    (variant,) = manifest.variants
    assert (variant.backend, variant.precision) == (BACKEND.name, "fp32")
    assert variant.verification.passed
    assert manifest.family == FAMILY.name
    assert manifest.gate.within == {"off": 0.1}
    assert manifest.choices["model"].variant == variant.name


def test_the_added_metric_is_scored_in_its_unit(tried):
    scoring = tl.Bundle.open(tried.path).manifest.scoring
    (score,) = scoring.scores.values()
    assert (scoring.task, scoring.primary, scoring.reference) == (TASK.name, "off", "pytorch")
    assert scoring.measures == {"off": Measure("labels", "lower")}
    assert scoring.data.samples == {"rows": 6}
    assert scoring.metrics["off"].value == score.metrics["off"].value == 1 / 6
    assert score.drops["off"].value == 0


def test_the_added_model_names_numbers(tried):
    assert [[name for name, _ in row] for row in tried.rows] == [["cold", "mild"], ["hot", "mild"], ["cold", "mild"]]
    assert all(1 >= row[0][1] > row[1][1] >= 0 for row in tried.rows)


def test_run_takes_a_number_and_names_it(tried):
    table, plain = tried.shown
    assert (table.code, plain.code) == (0, 0), table.err + plain.err
    assert "cold" in table.out
    assert re.search(r'"cold",\s*0\.\d+', plain.out)


def test_only_the_registries_know_what_was_added(tried):
    assert tried.replaced == {tuple(shipped.MEASURE.rsplit(".", 1))}
    assert tried.added == {added.room: {added.name} for added in ADDED}
    assert tried.kept


def test_nothing_stays_registered(tried):
    assert all(added.name not in REGISTRIES[added.room] for added in ADDED)
    with pytest.raises(SourceError):
        families.family(FAMILY.name)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": (3,)}, "holds {'weight': [3]}"),
        ({"weight": (3,), "bias": (2,)}, "'bias': [2]"),
        (None, "does not exist"),
    ],
)
def test_the_added_family_refuses_another_checkpoint(here, weights, message):
    if weights is not None:
        save_file({name: np.ones(shape, np.float32) for name, shape in weights.items()}, "other.safetensors")
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        families.family(FAMILY.name).load("other.safetensors", LoadOptions())
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": [0]}, "no array x"),
        ({"x": [3.0]}, "no labels"),
        ({"x": [3.0], "labels": [0, 1]}, "no labels"),
        ({"x": [3.0], "labels": [3]}, "outside 0..2"),
        ({"x": [[3.0]], "labels": [0]}, "x is float32"),
    ],
)
def test_the_added_task_refuses_data_that_do_not_fit(here, arrays, message):
    np.savez("other.npz", **{n: np.array(a, np.float32 if n == "x" else np.int64) for n, a in arrays.items()})
    with pytest.raises(DataError, match=message) as caught:
        open_task(tl.Bundle.open("weather/"), "other.npz")
    assert caught.value.remedy


def test_the_added_task_takes_a_limit_and_counts_what_is_no_number_as_a_miss(here):
    task = open_task(tl.Bundle.open("weather/"), "weather.npz", ReadOptions(limit=3))
    logits = np.array([[1, 0, 0], [0, 0, 1], [np.nan, 0, 0]], np.float32)
    outcomes = task.outcomes({"model": task.answers("model", {"logits": logits})})
    assert task.data.samples == {"rows": 3}
    assert outcomes["off"].tolist() == [0, 1, 3], "rows 0, 2 and 5, which are cold, mild and hot"


def test_the_example_of_an_answer_runs():
    exec(compile(code_of("Add a kind of answer"), PAGE.name, "exec", dont_inherit=True), {"__name__": "answer"})


def test_every_block_that_can_run_is_run_here():
    run = [*(added.code for added in ADDED), code_of("Add a kind of answer"), code_of("Try what you added")]
    runnable = [block for block in pages.blocks(PAGE) if block.language in pages.RUN and not block.reason]
    assert [block.code for block in runnable if block.language == "python" and block.code + "\n" not in run] == []
    shell = code_of("Try what you added", "sh").splitlines()
    assert [line for b in runnable if b.language != "python" for line in b.commands if line not in shell] == []
