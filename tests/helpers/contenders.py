"""Sessions whose times are known, and some that fail; opened by name in the processes that measure latency."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tiny import SIGNATURE

from torchlift.backends import Session
from torchlift.errors import BackendError


class Sleeper(Session):
    """Takes ``seconds`` a call, or does ``act`` from call number ``after`` on."""

    def __init__(self, seconds, act=None, after=0):
        super().__init__(SIGNATURE, f"sleeper {seconds}")
        self._seconds, self._act, self._after = seconds, act, after
        self._calls = 0

    def _run(self, feeds):
        self._prepare(feeds)()
        return {"y": np.zeros((len(feeds["x"]), 24), np.float32)}

    def _prepare(self, feeds):
        def call():
            self._calls += 1
            if self._act is not None and self._calls > self._after:
                self._act()
            time.sleep(self._seconds)

        return call


class Logger(Sleeper):
    """Appends its name to a file at each call."""

    def __init__(self, name, file):
        super().__init__(0, act=lambda: self._log(name, file))

    @staticmethod
    def _log(name, file):
        with file.open("a") as stream:
            stream.write(name)


def quick():
    return Sleeper(0.001)


def slow():
    return Sleeper(0.005)


def refuses():
    raise BackendError("the engine is of another GPU", remedy="Build it again.")


def says_and_exits():
    sys.stderr.write("loading\nout of patience\n")
    sys.stderr.flush()
    os._exit(7)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def killed_later():
    return Sleeper(0.001, act=killed, after=4)


def breaks_later():
    return Sleeper(0.001, act=_break, after=4)


def _break():
    raise RuntimeError("the device is gone")


class Fussy(Sleeper):
    """Fails at batches that it does not like."""

    def __init__(self, *liked):
        super().__init__(0.001)
        self._liked = liked

    def _prepare(self, feeds):
        if len(feeds["x"]) not in self._liked:
            raise RuntimeError(f"no batch of {len(feeds['x'])}")
        return super()._prepare(feeds)


def fussy():
    return Fussy(4)


def as_fussy():
    return Fussy(4)


def never():
    return Fussy()


class Narrow(Sleeper):
    """Runs no batch of more than 2."""

    def covers(self, sizes):
        return sizes["batch"] <= 2


def on(device):
    """The first device is the slowest: a call takes 50 ms there, 5 ms on the others."""
    return Sleeper(0.005 if device else 0.05)


def narrow_on(device):
    return Narrow(0.001)


def only_on_others(device):
    return on(device) if device else refuses()


def environment_name():
    """A session whose runtime is what a variable of its process says."""
    session = Sleeper(0.001)
    session.runtime = os.environ.get("TORCHLIFT_TEST", "nothing")
    return session


def reads(file):
    """A session whose runtime is what a file says."""
    session = Sleeper(0.001)
    session.runtime = Path(file).read_text()
    return session


def after(file):
    """Opens once ``file`` is there."""
    while not file.exists():
        time.sleep(0.01)
    return Sleeper(0.001)


def opens_late(begun, opened):
    """Writes one file at once, and the other when it is open, seconds later."""
    begun.touch()
    time.sleep(3)
    opened.touch()
    return Sleeper(0.001)


def ends():
    sys.exit(0)


def rows(count):
    return np.zeros((count, SIGNATURE.inputs[0].shape[1]), np.float32)
