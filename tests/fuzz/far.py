"""The process in which damaged inputs are used: one may hang or kill it. It tells what became of each."""

import io
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click

from torchlift.apart import serve
from torchlift.backends import apart
from torchlift.errors import TorchliftError

MEMORY = 16 << 30
"""Bytes of addresses that the process may use: what asks for terabytes fails, and no other process is starved."""

_CHANGES = {
    "os.mkdir": (0, 2),
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
    "os.rename": (1, 3),
    "os.link": (1, 3),
    "os.symlink": (1, 2),
    "os.truncate": (0, None),
    "os.chmod": (0, 2),
    "shutil.rmtree": (0, None),
}
"""Audit event -> the arguments that hold the path that is changed, and the descriptor that it starts from."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Watch:
    """Notes each path outside of ``allowed`` that Python is about to change."""

    def __init__(self):
        self.allowed = None
        self.outside = []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.allowed is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and not isinstance(path, int):
                self._look(path, None)
        elif event in _CHANGES:
            path, start = (None if place is None else arguments[place] for place in _CHANGES[event])
            if not isinstance(path, int):
                self._look(path, start)

    def _look(self, path, start):
        path = os.fsdecode(path)
        if "/" not in path and start is None:
            return  # os.open says nothing of the folder that it starts from: what it opens there was looked at
        if isinstance(start, int) and start >= 0:
            path = f"{Path(f'/proc/self/fd/{start}').readlink()}/{path}"
        path = os.path.abspath(path)  # noqa: PTH100, which would follow links
        if not path.startswith((str(self.allowed), "/dev/null", "/dev/shm", "/proc")):
            self.outside.append(path)


class Far:
    """The far end."""

    def __init__(self):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.simplefilter("ignore")
        apart.PATIENCE = 20.0
        self._watch = Watch()
        self._have = None

    def prepare(self, tiny, clip, weights, made):
        """Make what is damaged, unless it is there."""
        from materials import Materials, make

        made = Path(made)
        if not (made / "clip").is_dir():
            made.mkdir(exist_ok=True)
            make(made, Path(tiny))
        self._have = Materials(made / "tiny", Path(clip), Path(weights), made)

    def run(self, door, seed, folder):
        """What became of one damaged input: (kind, said), of the kinds answer, error and failure."""
        import doors

        folder = Path(folder)
        (folder / "tmp").mkdir(parents=True)
        tempfile.tempdir = str(folder / "tmp")
        os.chdir(folder)
        before = _listing(folder.parent, folder)
        self._watch.allowed, self._watch.outside = folder, []
        out, err = io.StringIO(), io.StringIO()
        try:
            with redirect_stdout(out), redirect_stderr(err):
                doors.DOORS[door](random.Random(f"{door} {seed}"), folder, self._have)
            kind, said = "answer", ""
        except (TorchliftError, click.ClickException) as error:
            kind, said = _judged(error)
        except BaseException:
            kind, said = "failure", traceback.format_exc()
        finally:
            self._watch.allowed = None
            tempfile.tempdir = None
            os.chdir("/")
        if self._watch.outside:
            kind, said = "failure", f"it would change {self._watch.outside}\n{said}"
        if _listing(folder.parent, folder) != before:
            kind, said = "failure", f"something beside its folder changed\n{said}"
        return kind, said


def _judged(error):
    """An error must be a sentence that can be printed, and say what to do."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, TorchliftError) and not error.remedy:
        return "failure", f"without a remedy: {said}"
    return "error", said


def _listing(top, without):
    """Name, size and time of all that is beside ``without``."""
    found = {}
    for where, folders, files in os.walk(top):
        folders[:] = [name for name in folders if f"{where}/{name}" != str(without)]
        for path in (f"{where}/{name}" for name in files):
            state = os.lstat(path)
            found[path] = (state.st_size, state.st_mtime_ns)
    return found


if __name__ == "__main__":
    serve(int(sys.argv[1]), Far())
