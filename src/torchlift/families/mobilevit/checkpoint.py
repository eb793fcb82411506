"""Finds and reads MobileViT's weights: a ``.pth.tar`` file of the reference project, or a transformers folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from torchlift.errors import CheckpointError, some
from torchlift.families.fake_quant import split_scales
from torchlift.families.transformers_folder import (
    download,
    is_hub_name,
    read_folder,
    read_weights,
)
from torchlift.families.weights import read_state, shapes_of
from torchlift.graph.scales import Scales

EXPECTED = (
    "A MobileViT source is a .pth.tar file with a state_dict (stem.*, stage1.* to stage4.*, fc.*), a folder that "
    "transformers saved from MobileViTForImageClassification, or a hub name such as apple/mobilevit-small."
)

MARKS = ("stem.0.weight", "stage1.0.conv.2.weight", "stage2.1.local_representation.1.conv.weight", "fc.weight")
FOLDER_MARKS = ("mobilevit.conv_stem.convolution.weight", "classifier.weight")
"""Weights that every checkpoint of a format has. A file without most of them is another model's."""

OTHERS = {
    "conv_1.block.conv.weight": "Apple's ml-cvnets",
    "stages.0.0.conv1_1x1.conv.weight": "timm",
    "mobilevit.conv_stem.convolution.weight": "transformers",
}
"""A weight that only one implementation has -> the name of that implementation."""


@dataclass(frozen=True)
class Weights:
    """The ``tensors`` as stored, by name, and the ``scales`` of fake quantisation, by module."""

    tensors: dict[str, Tensor]
    scales: dict[str, Scales]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes_of(self.tensors)


@dataclass(frozen=True)
class Checkpoint(ABC):
    """Weights on disk. They are read from ``files``; labels and preprocessing lie in ``folder``."""

    folder: Path
    files: tuple[Path, ...]

    @abstractmethod
    def read(self) -> Weights:
        """Read the weights. They are mapped into memory where possible. Raises CheckpointError."""


class ReferenceFile(Checkpoint):
    """A file with a dict that has ``state_dict``, or with a bare state_dict. Names may begin with ``module.``."""

    def read(self) -> Weights:
        file = self.files[0]
        state = read_state(file, EXPECTED)
        return _weights(file, {name.removeprefix("module."): tensor for name, tensor in state.items()}, MARKS)


@dataclass(frozen=True)
class TransformersFolder(Checkpoint):
    """A folder that transformers saved. ``config`` is the content of its config.json."""

    config: Mapping[str, Any]

    def read(self) -> Weights:
        return _weights(self.folder, read_weights(self.files, EXPECTED), FOLDER_MARKS)


def open_checkpoint(source: str) -> ReferenceFile | TransformersFolder:
    """Find out what ``source`` is: a file, a folder, or a name on the hub, which is downloaded.

    Raises CheckpointError where there is no such model.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return ReferenceFile(path.parent, (path,))
    if not path.is_dir():
        if not is_hub_name(source):
            raise CheckpointError(f"{source} does not exist", remedy=EXPECTED)
        path = download(source)
    config, files = read_folder(path, "mobilevit", EXPECTED, "*.pth*")
    return TransformersFolder(path, files, config)


def _weights(where: Path, state: dict[str, Tensor], marks: tuple[str, ...]) -> Weights:
    tensors, scales = split_scales(state)
    missing = [mark for mark in marks if mark not in tensors]
    if len(missing) > len(marks) // 2:
        author = next((author for mark, author in OTHERS.items() if mark in tensors and mark not in marks), None)
        detail = f"it is the MobileViT of {author}" if author else f"it has {some(list(tensors))}"
        raise CheckpointError(
            f"{where} is not a MobileViT checkpoint that can be read: missing {some(missing)}; {detail}",
            remedy=EXPECTED,
        )
    return Weights(tensors, scales)
