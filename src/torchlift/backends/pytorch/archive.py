"""Reads a torch.export archive as data: checked JSON, and tensors as raw bytes. None of it can run code.

torch.export.load by itself is no safer than pickle. As of torch 2.9 to 2.13 it

- unpickles sample inputs, weights and constants of older formats, tensors whose ``use_pickle`` is true in Python (the
  text "false" is), custom and opaque objects; and what it cannot read it opens once more as torch 2.7's format, which
  is pickles;
- loads the libraries of AOTInductor that an archive holds;
- evaluates the sizes of tensors as Python, by way of sympy, and compiles ``guards_code``;
- looks up operators anywhere below ``torch`` and ``operator``, and the classes of inputs and outputs by their names;
- writes a Python function with the names of nodes and weights in it.

So torch.export.load is not called. Here torch's own reader of archives opens the file. Every JSON document is checked
against :mod:`.schema`, which names everything that it may contain. A tensor is a view of its record's bytes, and may
not reach beyond them. :mod:`.program` gives torch only what was read here, so torch has nothing left to unpickle.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export.pt2_archive import PT2ArchiveReader

from torchlift.backends.pytorch.forms import Form, UnlikeError, parse
from torchlift.backends.pytorch.schema import DTYPES, PROGRAM, payload
from torchlift.errors import BundleError

_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(model_(weights|constants)_config\.json|(weight|tensor)_\d+)",
    re.ASCII,
)
_PROGRAM = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_VERSION = "0"
"""The only version of archives so far."""


@dataclass(frozen=True)
class Archive:
    """The content of an archive. None of it is code.

    ``program`` follows torch's schema (torch._export.serde.schema.ExportedProgram). ``weights`` are parameters and
    buffers by their names in the network, and ``constants`` are all other tensors. All tensors are on the CPU. Tensors
    that shared memory when they were saved share it here too.
    """

    program: dict[str, Any]
    weights: dict[str, torch.Tensor]
    constants: dict[str, torch.Tensor]


def read_archive(file: Path) -> Archive:
    """Read an archive; nothing in it is run. Raises BundleError where it is not the program of a plain network."""
    try:
        with PT2ArchiveReader(str(file)) as archive:
            return _read(archive)
    except UnlikeError as error:
        raise _refusal(file, f"it has {error}") from error
    except Exception as error:
        raise _refusal(file, f"it cannot be read: {error}") from error


def _refusal(file: Path, reason: str) -> BundleError:
    return BundleError(
        f"{file.name} is not opened: {reason}",
        remedy="A program must be as torchlift wrote it; ship the model again, or leave the backend pytorch out.",
    )


def _read(archive: PT2ArchiveReader) -> Archive:
    names: set[str] = set()
    for name in archive.get_file_names():
        if not _RECORDS.fullmatch(name):
            raise UnlikeError(f"the record {ascii(name)[1:-1]}")
        if name in names:
            raise UnlikeError(f"the record {name} twice")
        names.add(name)
    version = archive.read_string("archive_version")
    if version != _VERSION:
        raise UnlikeError(f"the version {version[:60]!r}")
    if _SAMPLES in names and archive.read_bytes(_SAMPLES):
        raise UnlikeError("sample inputs, which are a pickle")
    if _PROGRAM not in names:
        raise UnlikeError("no program")
    return Archive(
        _document(archive, _PROGRAM, PROGRAM),
        _tensors(archive, names, "data/weights", "model_weights_config.json", r"weight_\d+"),
        _tensors(archive, names, "data/constants", "model_constants_config.json", r"tensor_\d+"),
    )


def _document(archive: PT2ArchiveReader, record: str, form: Form) -> dict[str, Any]:
    value: dict[str, Any] = parse(archive.read_bytes(record))
    form(value, (record,))
    return value


def _tensors(
    archive: PT2ArchiveReader, names: Collection[str], folder: str, document: str, path: str
) -> dict[str, torch.Tensor]:
    """The tensors that a document lists, by name. Tensors of one record are views of the same memory."""
    if f"{folder}/{document}" not in names:
        raise UnlikeError(f"no {folder}/{document}")
    memory: dict[str, torch.Tensor] = {}
    tensors = {}
    for name, said in _document(archive, f"{folder}/{document}", payload(path))["config"].items():
        record = f"{folder}/{said['path_name']}"
        if record not in names:
            raise UnlikeError(f"no {record}, in which {name} is")
        if record not in memory:
            memory[record] = _bytes(archive.read_bytes(record))
        view = _view(memory[record], said["tensor_meta"], name)
        tensors[name] = torch.nn.Parameter(view, requires_grad=False) if said["is_param"] else view
    return tensors


def _bytes(data: bytes) -> torch.Tensor:
    """A tensor uint8 [bytes] with a copy of the data. Its memory is aligned, as torch needs it."""
    memory = torch.empty(len(data), dtype=torch.uint8)
    memory.numpy()[:] = np.frombuffer(data, np.uint8)
    return memory


def _view(memory: torch.Tensor, meta: dict[str, Any], name: str) -> torch.Tensor:
    """The tensor that ``meta`` describes, as a view of ``memory``. Raises UnlikeError where it would reach beyond."""
    dtype = DTYPES[meta["dtype"]]
    sizes, strides = ([extent["as_int"] for extent in meta[key]] for key in ("sizes", "strides"))
    offset = meta["storage_offset"]["as_int"]
    if len(sizes) != len(strides):
        raise UnlikeError(f"{len(sizes)} sizes and {len(strides)} strides for {name}")
    reach = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True)) + 1
    if 0 not in sizes and reach * dtype.itemsize > len(memory):
        raise UnlikeError(f"a tensor {name} that reaches beyond its {len(memory)} bytes: to {reach * dtype.itemsize}")
    return torch.as_strided(memory.view(dtype), sizes, strides, offset)
