"""Starts Python processes that import nothing from the current folder.

``python -m`` looks for modules in the current folder first. If that is a stranger's bundle, a numpy.py beside the
manifest would run.
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
"""The folder in which a new Python starts. Until its path is set, "the current folder" is this package, so that it
finds no modules elsewhere. Then it changes to the folder of the process that started it.
"""

_OWN_PATH = '[entry for entry in sys.path if entry not in ("", os.getcwd())]'
"""Code for the path of another Python: its own, without "", which ``-c`` adds for the current folder."""

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
"""The variable that keeps Python (3.11 and later) from adding the current folder, or that of a script, to its path.
Processes that such a Python starts inherit it."""


@dataclass(frozen=True)
class Interpreter:
    """Another Python with its own torchlift, for runtimes that cannot be installed in one environment.

    ``environment`` has variables that are added to those of this process.
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
    """Start ``module`` in the current folder like ``python -m``, but without that folder on its path.

    It runs in this Python with this process's path, or in ``python`` with that one's path. ``environment`` has
    variables that are added to those of this process. ``options`` are passed to Popen.

    The process ignores SIGINT from the start. At a terminal Ctrl-C reaches all processes, and this process ends the
    other one itself. Raises OSError where ``python`` cannot be started.
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
    """Keep the current folder off the path of Pythons (3.11 and later) that libraries start while the block runs."""
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
    """The entries of a path in a form that does not depend on the current folder.

    Entries for the current folder itself are left out. Folders and files become absolute. An entry that does not exist,
    such as the name of an import hook, stays as it is.
    """
    entries = [entry for entry in path if Path(entry) != Path()]
    return [str(Path(entry).absolute()) if Path(entry).exists() else entry for entry in entries]


@contextlib.contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Block SIGINT in this thread while the block runs.

    A process that is started meanwhile inherits that. It unblocks SIGINT after it has set the signal to be ignored.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
