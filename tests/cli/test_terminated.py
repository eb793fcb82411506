"""SIGTERM ends a command as Ctrl-C does: with a status of its own, and without anything left behind."""

import signal
import subprocess
import sys

import pytest
from shipped import MAIN

from torchlift.cli.interrupts import Interrupts

WAITING = """
import signal, sys, time
from torchlift.prove import verify

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it

def wait(*arguments, **options):
    print("ready", flush=True)
    time.sleep(60)

verify.load_goldens = wait
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_nothing_is_left_beside_the_bundle(built, number, status):
    before = sorted(built.path.parent.iterdir())
    command = [sys.executable, "-c", WAITING + MAIN, "verify", str(built.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert (built.path.parent / f".{built.path.name}.lock").exists(), "else this test proves nothing"
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == status
    assert said.splitlines()[-1] == "interrupted"
    assert "Traceback" not in said
    assert sorted(built.path.parent.iterdir()) == before


def test_sigterm_raises_once_it_is_heeded_and_is_as_before_then():
    before = signal.getsignal(signal.SIGTERM)
    assert before == signal.SIG_DFL
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt), interrupts.heeded():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_handler_of_somebody_else_stays():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("theirs"))
    try:
        with Interrupts().heeded():
            signal.raise_signal(signal.SIGTERM)
        assert heard == ["theirs"]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_status_tells_which_signal_it_was(number, status):
    interrupts = Interrupts()
    interrupts.noted = number
    assert interrupts.status == status
