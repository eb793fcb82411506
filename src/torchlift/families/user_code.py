"""Runs the code of a user's file: imports it, and turns whatever it raises into an error that names the file."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchlift.checksums import sha256
from torchlift.errors import ModuleSourceError

_PREFIX = "_torchlift_user_"
"""What the names of the modules begin with that users' files become. No other module is called so."""


def imported(file: Path, function: str) -> Any:
    """The function of that name in a user's file, which is run now. Raises ModuleSourceError.

    ``net.py`` becomes the module ``_torchlift_user_net_1f3a9c02``, where the digits are of the hash of its content. So
    a file called ``ast.py`` or ``torch.py`` replaces no other module. Modules in the same folder can be imported.
    """
    name = f"{_PREFIX}{file.stem}_{sha256(file)[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ModuleSourceError(f"{file} is not a Python file", remedy="Write path/to/file.py:function.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with (
        users_code(f"{file} cannot be imported", "Run it with python to see where."),
        _beside(str(file.resolve().parent)),
    ):
        spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        functions = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == name]
        raise ModuleSourceError(
            f"{file} has no function {function!r}", remedy=f"Its functions are {', '.join(functions) or 'none'}."
        )
    return getattr(module, function)


@contextlib.contextmanager
def users_code(problem: str, remedy: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever the user's code raises is a ModuleSourceError, also what would end this process: with a sys.exit(0) a
    command would seem to have done its work. Ctrl-C stays what it is, and so does what is ``passing``.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except passing:
        raise
    except BaseException as error:
        raise ModuleSourceError(
            f"{problem}: {type(error).__name__}: {str(error).strip():.500}", remedy=remedy
        ) from error


@contextlib.contextmanager
def _beside(folder: str) -> Iterator[None]:
    """Modules in ``folder`` can be imported from now on. Python's own modules come before them.

    While the block runs they come before installed packages, as where Python runs a file of that folder. Afterwards
    they come last, so that what torchlift imports later is not one of them.
    """
    if folder in sys.path:
        yield
        return
    sys.path.insert(_end_of_standard_library(), folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(folder)
        sys.path.append(folder)


def _end_of_standard_library() -> int:
    """The position in ``sys.path`` after the last folder of Python's own modules."""
    own = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    own |= {folder / "lib-dynload" for folder in own}
    return max((number + 1 for number, entry in enumerate(sys.path) if Path(entry) in own), default=len(sys.path))
