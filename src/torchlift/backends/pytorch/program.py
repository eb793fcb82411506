"""Writes a torch.export program to disk, and reads it back."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.fx import GraphModule
from torch.fx.graph import CodeGen

from torchlift.backends.pytorch.archive import Archive, read_archive
from torchlift.errors import BackendError


def save_program(program: torch.export.ExportedProgram, file: Path) -> None:
    """Write a program with plain operators only.

    Operators that work in place are replaced by others. Blocks such as autocast are resolved, since torch.compile does
    not take them. Notes about the machine that traced the program, and the sample inputs, are left out.
    """
    with torch.no_grad():
        plain = program.run_decompositions({})
    for node in plain.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    plain.example_inputs = None
    torch.export.save(plain, file)


def load_program(file: Path) -> GraphModule:
    """Read a program as a module on the CPU, in float32. It takes the inputs by position and returns a tuple.

    Nothing in the file is run as Python, see :mod:`torchlift.backends.pytorch.archive`. Raises BundleError for a file
    that holds anything else than data, BackendError where this release of torch cannot read what another wrote.
    """
    archive = read_archive(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = _program(archive).module()
    except Exception as error:
        raise BackendError(
            f"torch {torch.__version__} cannot load {file.name}: {error}",
            remedy="Use the release of torch that the bundle was made with, or ship the model again.",
        ) from error
    module.graph.set_codegen(CodeGen())  # takes arguments one by one, and checks no sizes: the signature does that
    return copy_of(module)


def _program(archive: Archive) -> torch.export.ExportedProgram:
    """Make a program of an archive, by the same functions that torch.export.load uses.

    They get objects and no bytes, so they have nothing to unpickle. They get no sample inputs, and no guards, since
    guards are Python code.
    """
    from torch._export.serde import schema, serialize  # private: a release that lacks one of these names gives an error

    said = serialize._dict_to_dataclass(schema.ExportedProgram, {**archive.program, "guards_code": []})
    return serialize.ExportedProgramDeserializer().deserialize(said, archive.weights, archive.constants, None)


def copy_of(module: GraphModule) -> GraphModule:
    """A module with the same graph and the same weights, whose Python code is its own."""
    return GraphModule(module, module.graph)
