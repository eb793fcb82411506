"""A torch.export program on disk and back."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch.fx import GraphModule
from torch.fx.graph import CodeGen

from torchlift.backends.pytorch.archive import Archive, read_archive
from torchlift.errors import BackendError


def save_program(program: torch.export.ExportedProgram, file: Path) -> None:
    """Write a program as operators that change nothing in place, without blocks such as autocast, which torch.compile
    does not take; without what it notes of the machine that it was traced on, and without its sample inputs.
    """
    with torch.no_grad():
        plain = program.run_decompositions({})
    for node in plain.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    plain.example_inputs = None
    torch.export.save(plain, file)


def load_program(file: Path) -> GraphModule:
    """The program as a module on the CPU, in float32, that takes the inputs by position and returns a tuple.

    Nothing in the file is run as Python, see :mod:`torchlift.backends.pytorch.archive`. Raises BundleError where it
    would be, BackendError where this release of torch does not read what another wrote.
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
    module.graph.set_codegen(CodeGen())  # arguments one by one, and no checks of sizes: the signature has those
    return copy_of(module)


def _program(archive: Archive) -> torch.export.ExportedProgram:
    """What torch.export.load makes of what it has read, by the functions that it does it by.

    They are given objects and no bytes, so they do not unpickle; no sample inputs; and no guards, which are Python.
    """
    from torch._export.serde import schema, serialize  # private, so whatever it lacks is an error of this release

    said = serialize._dict_to_dataclass(schema.ExportedProgram, {**archive.program, "guards_code": []})
    return serialize.ExportedProgramDeserializer().deserialize(said, archive.weights, archive.constants, None)


def copy_of(module: GraphModule) -> GraphModule:
    """A module of the same graph and the same weights, with Python code of its own."""
    return GraphModule(module, module.graph)
