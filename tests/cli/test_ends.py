"""How a command ends: interrupted, by code that would end the process, in a folder of traps; and with what status."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading

import click
import pytest
import traps
from shipped import MAIN, in_process, refused, torchlift

from torchlift.bundle import Bundle
from torchlift.cli import display
from torchlift.errors import BackendError, GateError

DONE = "interrupted, but all was done: the result is there"


@pytest.fixture(autouse=True)
def heeding_ctrl_c():
    """A shell lets what it starts in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler is as it was"
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def command(monkeypatch):
    """Puts a function in the place of what a command does, and runs it."""

    def run(work, *arguments, name="inspect"):
        module = importlib.import_module(f"torchlift.cli.{name}")
        monkeypatch.setattr(module.command, "callback", lambda **options: work())
        return torchlift(name, *(arguments or ("bundle",)))

    return run


def lose_ctrl_c():
    """Ctrl-C where its exception is lost, as in a destructor."""
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def interrupted(said):
    assert said.code == 130, said.out + said.err
    assert said.out == ""
    assert said.err.strip().splitlines()[-1] == "interrupted"
    assert "Traceback" not in said.err


def test_ctrl_c_ends_a_command(command):
    interrupted(command(lambda: signal.raise_signal(signal.SIGINT)))


@pytest.mark.parametrize("word", ["stage", "end of a stage", "advance", "note"])
def test_ctrl_c_that_was_lost_ends_the_work_at_its_next_word(command, word):
    went_on = []

    def work():
        with display.progress_display() as progress:
            if word == "end of a stage":
                with progress.stage("work"):
                    lose_ctrl_c()
                went_on.append(word)
            with progress.stage("work", 2) as stage:
                lose_ctrl_c()
                if word == "advance":
                    stage.advance()
                elif word == "note":
                    progress.note("half is done")
                else:
                    with progress.stage("more work"):
                        went_on.append(word)
                went_on.append(word)

    interrupted(command(work))
    assert went_on == []


def test_ctrl_c_a_second_time_ends_what_lost_the_first(command):
    def work():
        lose_ctrl_c()
        signal.raise_signal(signal.SIGINT)

    interrupted(command(work))


@pytest.mark.parametrize("error", [BackendError("no such thing"), ValueError("CURRENT_PATCHER is None"), SystemExit(0)])
def test_ctrl_c_that_a_library_turned_into_an_error_is_an_interruption(command, error):
    def work():
        lose_ctrl_c()
        raise error

    interrupted(command(work))


@pytest.mark.parametrize("error", [None, GateError("nothing holds")])
def test_ctrl_c_that_was_lost_when_all_was_done_is_told_as_that(command, error):
    def work():
        lose_ctrl_c()
        if error:
            raise error

    said = command(work, "net.py:build", "-o", "out", name="ship")
    assert said.code == 130
    assert said.err.splitlines()[-1] == DONE


def test_an_interruption_is_not_of_the_next_command(command):
    interrupted(command(lambda: signal.raise_signal(signal.SIGINT)))
    with display.progress_display() as progress:
        progress.note("nor of what is no command")
    assert command(lambda: None).code == 0


def test_what_a_shell_started_in_the_background_ignores_ctrl_c(command):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    said = command(lambda: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert (said.code, said.err) == (0, "")


def test_a_command_runs_in_a_thread_too(command):
    found = []
    thread = threading.Thread(target=lambda: found.append(command(lambda: None)))
    thread.start()
    thread.join()
    assert found[0].code == 0


def stop():
    raise SystemExit(0)


def test_code_that_would_end_the_process_does_not_end_a_command_well(command):
    message, remedy = refused(command(stop))
    assert "SystemExit: 0 at test_ends.py, line" in message
    assert remedy


def test_code_that_would_end_the_process_is_traced_on_demand(built, monkeypatch):
    monkeypatch.setattr(Bundle, "open", lambda *arguments: stop())
    said = torchlift("inspect", built.path, "-v")
    assert said.code == 1
    assert "Traceback" in said.err
    assert "SystemExit" in said.err


def test_a_network_that_exits_ships_nothing(tmp_path):
    (tmp_path / "net.py").write_text("import sys\ndef build():\n    sys.exit(0)\n")
    message, _ = refused(in_process("ship", f"{tmp_path / 'net.py'}:build", "-o", tmp_path / "out"))
    assert message == "build in net.py failed: SystemExit: 0"
    assert not (tmp_path / "out").exists()


def test_a_command_may_end_with_a_status_of_its_own(command):
    def work():
        raise click.exceptions.Exit(5)

    assert command(work).code == 5


def test_a_file_that_ends_too_early_is_no_interruption(command):
    def work():
        raise EOFError("no data left")

    said = command(work)
    assert said.code == 1
    assert "EOFError: no data left" in said.err


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(built, flags):
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-c", MAIN, "inspect", built.path, *flags]
    try:
        done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writes)
    assert done.returncode == 1
    assert "Error" not in done.stderr
    assert "error" not in done.stderr


def test_nothing_in_the_folder_of_a_bundle_is_imported(built, tmp_path):
    assert torchlift("verify", built.path).code == 0
    script = tmp_path / "bin" / "torchlift"
    script.parent.mkdir()
    script.write_text(MAIN)
    mark = traps.lay(built.path)
    command = [sys.executable, str(script), "bench", ".", "--rounds", "2", "--batch", "1", "--json"]
    done = subprocess.run(command, cwd=built.path, capture_output=True, text=True, check=False)
    assert not mark.exists(), mark.read_text()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["failures"] == []
