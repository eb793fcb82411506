"""Text out of a stranger's files is shown on a terminal, and never obeyed."""

import ast
import contextlib
import io
import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table
from rich.text import Text
from shipped import torchlift

import torchlift as tl
from torchlift.bundle import Bundle
from torchlift.cli import _COMMANDS
from torchlift.cli.display import VisibleConsole, progress_display
from torchlift.cli.words import FLAGS, visible, visible_json, with_flags
from torchlift.errors import InputError
from torchlift.jobs import JobOptions, score_bundle
from torchlift.processing.answers import Labels

HOSTILE = "cat\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b]8;;http://e.x\x1b\\\r\x08\x7f\x9b31m\x85\u202e"
SHOWN = r"cat\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b]8;;http://e.x\x1b\\r\x08\x7f\x9b31m\x85\u202e"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
STYLE = re.compile(r"\x1b\[[0-9;]*m")
CURSOR = re.compile(r"\x1b\[(\?25[lh]|[0-9]*[AK])|\r")


def test_what_a_terminal_would_obey_is_shown():
    assert visible(HOSTILE) == SHOWN
    assert visible("two\n\tlines, 猫 é 🙂 עברית") == "two\n\tlines, 猫 é 🙂 עברית"
    assert visible("name-\udcff") == "name-\\udcff", "a file's name that is no text"


@given(st.text(), st.text())
def test_nothing_is_left_to_obey_and_what_is_shown_stays(one, other):
    assert not OBEYED.search(visible(one))
    assert visible(visible(one)) == visible(one)
    assert visible(one + other) == visible(one) + visible(other)


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_json_means_the_same_and_holds_nothing_to_obey(text):
    plain = json.dumps({text: [text]}, ensure_ascii=False, indent=1)
    assert json.loads(visible_json(plain)) == json.loads(plain)
    assert not OBEYED.search(visible_json(plain))


def rendered(*things, terminal):
    out = io.StringIO()
    console = VisibleConsole(
        file=out, force_terminal=terminal, color_system="standard" if terminal else None, width=160
    )
    for thing in things:
        console.print(thing)
    return out.getvalue()


def everywhere():
    """Hostile text in each place that a result has for text."""
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE, box=None)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))
    return [HOSTILE, table, Group(Text(HOSTILE, style="dim"), HOSTILE), f"[red]{HOSTILE}[/red]"]


@pytest.mark.parametrize("terminal", [True, False])
def test_only_styles_of_our_own_reach_a_terminal(terminal):
    out = rendered(*everywhere(), terminal=terminal)
    assert bool(STYLE.search(out)) == terminal
    plain = STYLE.sub("", out)
    assert not OBEYED.search(plain)
    assert plain.count(r"cat\x1b]52;c;ZXZpbA==") == 9
    assert "[red]cat" in plain, "brackets are no style"


def test_a_table_has_room_for_what_it_shows():
    table = Table(box=None)
    table.add_row(HOSTILE, "next")
    assert SHOWN + "  next" in " ".join(rendered(table, terminal=False).split(" "))


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_titles_and_notes_and_obeys_neither(monkeypatch, terminal):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    else:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
    out = io.StringIO()
    with contextlib.redirect_stderr(out), progress_display() as progress, progress.stage(HOSTILE, 2) as stage:
        progress.note(HOSTILE)
        stage.advance()
    text = out.getvalue()
    assert bool(CURSOR.search(text)) == terminal, "bars are drawn on a terminal alone"
    plain = STYLE.sub("", CURSOR.sub("", text))
    assert not OBEYED.search(plain)
    assert f"note: {SHOWN}" in plain
    assert SHOWN in plain.replace(f"note: {SHOWN}", "")


def clean(said, *words):
    assert not OBEYED.search(said.out + said.err)
    assert all(word in said.out + said.err for word in words), said.out + said.err


@pytest.fixture
def hostile(built):
    """A bundle whose texts are hostile wherever they are free."""
    manifest = built.manifest
    variants = [replace(v, failure=HOSTILE, verification=None, files=(), model="") for v in manifest.variants[:1]]
    kept = [replace(v, verification=None) for v in manifest.variants[1:]]
    labels = Labels(tuple(f"{HOSTILE}{number}" for number in range(24)))
    components = (replace(manifest.component("model"), answers={"y": labels}),)
    said = {"name": HOSTILE, "made_with": {"x": HOSTILE}}
    changed = replace(manifest, **said, variants=(*variants, *kept), components=components)
    built.commit(changed)
    return Bundle.open(built.path)


def test_a_hostile_bundle_is_inspected_and_verified(hostile):
    clean(torchlift("inspect", hostile.path, "-v"), r"\x1b]52;c;ZXZpbA==")
    clean(torchlift("verify", hostile.path))
    said = torchlift("inspect", hostile.path, "--json")
    assert not OBEYED.search(said.out)
    assert json.loads(said.out)["name"] == HOSTILE


def test_hostile_labels_are_printed(hostile, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 32), np.float32))
    arguments = ("run", hostile.path, "--variant", hostile.manifest.variants[1].name, "--input", f"x={tmp_path}/x.npy")
    clean(torchlift(*arguments), SHOWN)
    said = torchlift(*arguments, "--json")
    assert not OBEYED.search(said.out)
    assert HOSTILE in json.loads(said.out)["y"][0][0][0]


@pytest.mark.parametrize("flags", [(), ("-v",)])
def test_a_hostile_error_is_printed(tmp_path, flags):
    said = torchlift("inspect", tmp_path / "x\x1b[2J\x9b", *flags)
    assert said.code == 1
    clean(said, r"x\x1b[2J\x9b is not a folder")


def test_a_hostile_option_is_refused(bundle):
    said = torchlift("bench", bundle.path, "--batch", "1,\x9b2J")
    assert said.code == 2
    clean(said, r"--batch 1,\x9b2J")


def test_a_hostile_path_is_printed(built, tmp_path):
    packed = torchlift("pack", built.path, "-o", tmp_path / "x\x1b[2J.zip")
    assert packed.code == 0
    clean(packed, r"x\x1b[2J.zip (")
    unpacked = torchlift("unpack", tmp_path / "x\x1b[2J.zip", "-o", tmp_path / "y\x9b")
    assert unpacked.code == 0
    clean(unpacked, r"y\x9b: ")


# options in the place of Python's arguments


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("Give `calibration=` some hundred inputs.", "Give --calibration some hundred inputs."),
        ("read with `trust_pickle=`.", "read with --trust-pickle."),
        ("export again with `axes=batch=1..4..9`.", "export again with --axis batch=1..4..9."),
        (
            "torchlift build x `backends=tensorrt` `precisions=fp16`.",
            "torchlift build x --backend tensorrt --precision fp16.",
        ),
        ("read without `strict_data=`, which skips it", "read without --strict-data, which skips it"),
        ("Run `torchlift build clip` first; a = b", "Run `torchlift build clip` first; a = b"),
    ],
)
def test_arguments_of_python_are_printed_as_options(said, printed):
    assert with_flags(said) == printed


def _options():
    """Every option that a command has."""
    commands = [import_module(f"torchlift.cli.{name}").command for name in _COMMANDS]
    return {option for command in commands for parameter in command.params for option in parameter.opts}


def _arguments():
    """Every argument that a message names as Python has it, with the file."""
    source = Path(tl.__file__).parent
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in re.findall(r"(?<!`)`([a-z][a-z_]*)=", node.value):
                    yield name, file.name


def test_every_argument_that_a_message_names_is_an_option_of_a_command():
    options, named = _options(), {*_arguments()}
    assert len(named) > 20
    unknown = {(name, file) for name, file in named if with_flags(f"`{name}=`") not in options}
    assert unknown == set()
    assert {f"--{flag}" for flag in FLAGS.values()} <= options


def test_a_message_is_printed_with_options_wherever_it_appears(capsys):
    said = "Give `trust_pickle=`."
    with progress_display() as progress:
        progress.note(said)
    assert "--trust-pickle" in capsys.readouterr().err
    table = Table()
    table.add_column("why")
    table.add_row(said)
    assert "Give --trust-pickle." in rendered(table, terminal=False)


def test_an_error_is_raised_with_the_argument_and_printed_with_the_option(clip):
    with pytest.raises(InputError) as caught:
        score_bundle(clip.path, JobOptions())
    assert "`data=`" in caught.value.remedy
    done = torchlift("score", clip.path)
    assert done.code == 1
    assert with_flags(caught.value.remedy) in done.err
    assert "--data" in done.err
