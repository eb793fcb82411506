"""Reads a file in which training saved a whole network, as records: what it says of each object, and no code of it.

Such a pickle names classes, ``models.common.Conv`` for example. A class of our own stands in for each, which keeps the
state that the pickle gives an object. The package that wrote the file is not imported, and need not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from torchlift.errors import CheckpointError
from torchlift.families.torch_file import load_torch_file, names_in_pickle
from torchlift.storage import open_regular

WRITERS = ("models.", "utils.", "yolov5.", "ultralytics.", "torch.nn.", "numpy.", "pathlib.")
"""What the names in a pickle begin with that a stand-in is made for: the packages of YOLO, and what their files hold
besides, such as a score as a scalar of numpy and paths. Any other name is refused.
"""

_OTHERS = {"Segment", "Pose", "OBB", "Classify", "SegmentationModel", "ClassificationModel", "PoseModel", "OBBModel"}
"""Heads and models of other tasks."""

_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""How a file of torch.save begins that is no archive."""


class Record:
    """What a pickle says of one object: the full name of its class, and its state."""

    kind: ClassVar[str] = ""
    state: Any = None

    def __new__(cls, *arguments: Any, **keywords: Any) -> Record:
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        """What the class would be called with is not kept: no network needs it."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    @property
    def name(self) -> str:
        """The name of the class without its package: ``Conv``."""
        return self.kind.rpartition(".")[2]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute of the object that was saved, such as ``stride`` of a convolution."""
        return self.state.get(name, default) if isinstance(self.state, Mapping) else default

    def module(self, name: str) -> Record:
        """A module within this one. Raises CheckpointError where there is none."""
        found = self.modules.get(name)
        if found is None:
            raise CheckpointError(f"a {self.kind} has no module {name!r}", remedy="The file is damaged.")
        return found

    @property
    def modules(self) -> dict[str, Record]:
        """The modules within this one by name, without those that are None."""
        found = self.get("_modules", {})
        items = found.items() if isinstance(found, Mapping) else ()
        return {str(name): module for name, module in items if isinstance(module, Record)}

    def tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer of this module itself; None where there is none."""
        for group in ("_parameters", "_buffers"):
            found = self.get(group, {})
            if isinstance(found, Mapping) and isinstance(found.get(name), Tensor):
                tensor: Tensor = found[name]
                return tensor.detach()
        return None


def read_records(file: Path, expected: str) -> Any:
    """Read a file of torch.save, with a :class:`Record` in the place of each object of :data:`WRITERS`.

    Raises UnsafeCheckpointError for a pickle that names anything else, CheckpointError for a file that is damaged and
    for a model of another task. ``expected`` says what is read.
    """
    with open_regular(file) as stream:
        if stream.read(len(_LEGACY)) == _LEGACY:
            raise CheckpointError(
                f"{file} is in the format of torch before 1.6, which stores a network with the source of its classes",
                remedy="Load it where it was trained, and save it with a later torch.",
            )
    found = names_in_pickle(file)
    other = next((name for name in found if name.startswith(WRITERS) and name.rpartition(".")[2] in _OTHERS), None)
    if other is not None:
        raise CheckpointError(f"{file} holds a {other}: it is no model of plain detection", remedy=expected)
    named = [name for name in found if name.startswith(WRITERS)]
    stand_ins = [(type("Record", (Record,), {"kind": name}), name) for name in named]
    return load_torch_file(file, expected, stand_ins)
