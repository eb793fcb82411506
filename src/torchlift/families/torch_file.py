"""Reads files of torch.save without running code in them, and explains what is wrong with a file."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from torchlift.errors import CheckpointError, UnsafeCheckpointError
from torchlift.storage import open_regular

_BAD_ZIP = (zipfile.BadZipFile, ValueError, NotImplementedError)
"""What zipfile raises for a damaged directory of an archive: also for names that are no text, and for versions that it
does not know."""


def load_torch_file(file: Path, expected: str, stand_ins: Sequence[tuple[type, str]] = ()) -> Any:
    """Read a file of torch.save without running code. Tensors are mapped from the file where its format allows.

    ``expected`` is a sentence that says what the family reads. It is the remedy where the file is something else.
    ``stand_ins`` are classes such as :class:`Inert`, each with the full name in the pickle in whose place it is made:
    the class of that name is not imported.

    Raises UnsafeCheckpointError for a pickle that names anything but tensors and plain values. Raises CheckpointError
    for a damaged file, for TorchScript, and for any other file.
    """
    zipped = _check_archive(file, expected)
    try:
        with torch.serialization.safe_globals([*stand_ins]):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True if zipped else None)
    except pickle.UnpicklingError as error:
        if called := _called(file, str(error)):
            raise UnsafeCheckpointError(
                f"{file} is a pickle that calls {called}: it was not loaded, and nothing of it ran",
                remedy="If you trust its author, load it where it was made and save only the state_dict.",
            ) from error
        raise _damaged(file, error, expected) from error
    except MemoryError:
        raise
    except Exception as error:  # a pickle with changed bytes makes the unpickler raise almost anything
        raise _damaged(file, error, expected) from error


class Inert:
    """A stand-in for a class that a pickle names, whose objects become plain dicts of what the pickle holds."""

    def __new__(cls, *arguments: object) -> Any:
        return OrderedDict()  # torch fills only dicts of its own choice, this one among them


def names_in_pickle(file: Path) -> list[str]:
    """The full names of the classes and functions that a file of torch.save names, such as ``models.common.Conv``.

    Nothing is loaded. None for a file that is no archive, and for one that is damaged those before the damage.
    """
    found: dict[str, None] = {}
    with contextlib.suppress(Exception), open_regular(file) as stream, zipfile.ZipFile(stream) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(member) as content:
            for opcode, argument, _ in pickletools.genops(content):  # the decoder fails in many ways
                if opcode.name == "GLOBAL":
                    found[str(argument).replace(" ", ".")] = None
    return [*found]


def is_torchscript(file: Path) -> bool:
    """Whether a file is an archive of torch.jit.save, which holds a program with its weights."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
    except (OSError, *_BAD_ZIP):
        return False
    return any(m.endswith("/constants.pkl") for m in members) and any("/code/" in m for m in members)


def _check_archive(file: Path, expected: str) -> bool:
    """Whether the file is a zip archive with tensors.

    Raises CheckpointError for a file that is empty, truncated, TorchScript or an archive of something else.
    """
    try:
        with open_regular(file) as stream:
            start = stream.read(4)
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror}", remedy="Check the permissions of the file."
        ) from error
    if not start:
        raise CheckpointError(f"{file} is empty", remedy="Download or copy it again.")
    if start != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
    except _BAD_ZIP as error:
        raise CheckpointError(
            f"{file} is truncated: it has {file.stat().st_size:,} bytes and its end is missing or damaged",
            remedy="Download or copy it again.",
        ) from error
    if is_torchscript(file):
        raise CheckpointError(f"{file} is a TorchScript archive, not weights", remedy=expected)
    if not any(m.endswith("/data.pkl") for m in members):
        raise CheckpointError(f"{file} is a zip archive without PyTorch weights", remedy=expected)
    return True


def _damaged(file: Path, error: Exception, expected: str) -> CheckpointError:
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    return CheckpointError(
        f"{file} is damaged or was not written by torch.save ({file.stat().st_size:,} bytes): {reason}",
        remedy=expected,
    )


def _called(file: Path, refusal: str) -> str:
    """The code that a pickle names; "" where it names none.

    It is in torch's refusal, or in the opcodes of the pickle, some of which torch does not know.
    """
    if match := re.search(r"GLOBAL (\S+)", refusal):
        return match[1]
    strings: list[str] = []
    try:
        with open_regular(file) as stream:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    return str(argument).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # not a pickle at all; the decoder fails in many ways
        return ""
    return ""
