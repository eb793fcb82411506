"""Where ``torchlift run`` writes answers: ``--output score.npy``, ``--output score=s.npy``, ``--output all.npz``."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True)
class Target:
    """A file, and the output that goes into it. An empty ``name`` stands for the only output, or in a .npz for all."""

    name: str
    file: Path

    def names(self, outputs: Sequence[str]) -> tuple[str, ...]:
        """Which of the ``outputs`` go into the file. Raises UsageError where that is not clear."""
        if self.name and self.name not in outputs:
            raise click.UsageError(f"--output {self.name}={self.file}: the outputs are {', '.join(outputs)}.")
        if not self.name and len(outputs) > 1 and self.file.suffix == ".npy":
            raise click.UsageError(
                f"--output {self.file}: a .npy file has one array, and the outputs are {', '.join(outputs)}: "
                f"write {outputs[0]}={self.file}, or give a .npz file."
            )
        return (self.name,) if self.name else tuple(outputs)


def parse_outputs(texts: Sequence[str]) -> tuple[Target, ...]:
    """What ``--output [NAME=]FILE`` says. Raises UsageError for a file of another kind, or one that is given twice."""
    found: list[Target] = []
    for text in texts:
        before, equals, after = text.partition("=")
        named = bool(equals) and "/" not in before
        target = Target(before if named else "", Path(after if named else text))
        if target.file.suffix not in SUFFIXES or (named and not before):
            raise click.UsageError(f"--output {text}: write [NAME=]FILE, a .npy or a .npz file.")
        if any(other.file.absolute() == target.file.absolute() for other in found):
            raise click.UsageError(f"--output {text}: {target.file} is given twice.")
        found.append(target)
    return tuple(found)


def write_outputs(targets: Sequence[Target], arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Write the arrays, each file in one step; returns a line about each. A file that is there is replaced.

    Raises StorageError where a file cannot be written.
    """
    said = []
    for target in targets:
        taken = {name: arrays[name] for name in target.names([*arrays])}
        _write(target.file, taken)
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in taken.items())
        said.append(f"{target.file}: {shapes}")
    return said


def _write(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    import numpy as np

    from torchlift.storage import replacing

    with replacing(file) as stream:
        if file.suffix == ".npy":
            (array,) = arrays.values()
            np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
            return
        with zipfile.ZipFile(stream, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
