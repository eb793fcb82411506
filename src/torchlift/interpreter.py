"""Starts Pythons for what needs a process of its own. None of them imports from the current folder on our account.

``python -m`` puts the current folder before all others: in a stranger's bundle, a numpy.py beside the manifest would
run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HOME = Path(__file__).parent
"""Where a Python starts. Until its path is set, what "the current folder" means to it is this package, and no other
folder's modules can be met; then it goes to the folder of who started it."""

_OWN_PATH = '[entry for entry in sys.path if entry not in ("", os.getcwd())]'
"""The path that another Python has by itself; ``-c`` puts "" first, which is the current folder."""

_START = """\
import os, sys
sys.path[:] = {path}
import runpy, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
os.chdir({folder})
runpy.run_module({module}, run_name="__main__", alter_sys=True)
"""

_GUARD = "PYTHONSAFEPATH"
"""Set, no Python from 3.11 on adds the current folder, or a script's, to its path; those that it starts inherit it."""


@dataclass(frozen=True)
class Interpreter:
    """Another Python with a torchlift of its own, for runtimes that cannot be installed beside each other;
    ``environment`` is added to this process's.
    """

    executable: str
    environment: Mapping[str, str] = field(default_factory=dict)


def start(
    module: str,
    *arguments: str,
    python: Interpreter | None = None,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.Popen:
    """Start ``module`` as ``python -m`` would, in the current folder, but with nothing of that folder on its path.

    It runs in this Python, with this process's path, or in ``python``, with its own. ``environment`` is added to this
    process's, ``options`` are Popen's. The process ignores SIGINT from its first moment on: at a terminal, Ctrl-C
    reaches all processes, and who started it ends it. Raises OSError where ``python`` cannot be started.
    """
    executable = python.executable if python else sys.executable
    if os.sep in executable:
        executable = str(Path(executable).absolute())
    path = _OWN_PATH if python else ascii(_independent(sys.path))
    code = _START.format(path=path, folder=ascii(str(Path.cwd())), module=ascii(module))
    added = {**(python.environment if python else {}), **(environment or {})}
    with _blocked_interrupts():
        return subprocess.Popen(
            [executable, "-c", code, *arguments], cwd=_HOME, env=_environment({**os.environ, **added}), **options
        )


@contextlib.contextmanager
def guarded_children() -> Iterator[None]:
    """Pythons that libraries start while the block runs leave the current folder out of their path, from 3.11 on."""
    before = os.environ.get(_GUARD)
    os.environ[_GUARD] = "1"
    try:
        yield
    finally:
        os.environ.pop(_GUARD)
        if before is not None:
            os.environ[_GUARD] = before


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    path = _independent(variables.get("PYTHONPATH", "").split(os.pathsep))
    return {**variables, _GUARD: "1", "PYTHONPATH": os.pathsep.join(path)}


def _independent(path: Iterable[str]) -> list[str]:
    """The entries of a path, without those that mean whatever folder is the current one, and its folders as absolute
    ones; an entry that is no file, as an import hook's name, stays as it is.
    """
    entries = [entry for entry in path if Path(entry) != Path()]
    return [str(Path(entry).absolute()) if Path(entry).exists() else entry for entry in entries]


@contextlib.contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Hold SIGINT back in this thread; a process that starts meanwhile inherits that, until it has said what it does
    about it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
