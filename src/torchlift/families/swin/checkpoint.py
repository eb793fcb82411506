"""Finds and reads Swin's weights: Microsoft's ``.pth``, timm's files, or a transformers folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from torchlift.errors import CheckpointError, some
from torchlift.families.swin.architecture import Architecture, architecture_from, architecture_of
from torchlift.families.swin.names import from_timm, from_transformers, is_timm, without_buffers
from torchlift.families.torch_file import Inert
from torchlift.families.transformers_folder import download, is_hub_name, read_folder, read_weights
from torchlift.families.weights import read_state, shapes_of

EXPECTED = (
    "A Swin source is a .pth file of Microsoft's project (layers.0.blocks.0.attn.qkv.weight, ...), a file of timm with "
    "the same names, a folder that transformers saved from SwinForImageClassification or Swinv2ForImageClassification, "
    "or a hub name such as microsoft/swin-tiny-patch4-window7-224."
)

Origin = Literal["microsoft", "timm", "transformers"]

MODEL_TYPES = ("swin", "swinv2")

_MARKS = (
    "patch_embed.proj.weight",
    "layers.0.blocks.0.attn.qkv.weight",
    "layers.0.blocks.0.mlp.fc1.weight",
    "norm.weight",
)
"""Weights that every Swin has. A file without most of them is another model's."""

_SETTINGS = ("yacs.config.CfgNode",)
"""What Microsoft's training files hold besides tensors: the settings of the training, which nobody here asks."""

_OTHERS = {
    "layers.0.blocks.0.attn.logit_scale": "a Swin V2 by Microsoft's or timm's names; give transformers' folder of it",
    "absolute_pos_embed": "a Swin with absolute position embeddings, which is not supported",
    "features.0.0.weight": "torchvision's Swin, whose names are not supported",
    "backbone.patch_embed.proj.weight": "a detector or a segmenter on a Swin, not a classifier",
    "module.encoder.patch_embed.proj.weight": "a Swin in pre-training, not a classifier",
}
"""A weight that only another model has -> what the file holds."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk. They are read from ``files``; labels and preprocessing lie in ``folder``.

    ``config`` is the content of transformers' config.json, empty for the other files.
    """

    folder: Path
    files: tuple[Path, ...]
    config: Mapping[str, Any]

    def read(self) -> Weights:
        """Read the weights. They are mapped into memory where possible. Raises CheckpointError."""
        file = self.files[-1]
        if self.config:
            state = from_transformers(without_buffers(read_weights(self.files, EXPECTED)))
            _check_marks(file, state, {})
            classes = state["head.weight"].shape[0] if "head.weight" in state else 0
            if not classes:
                raise CheckpointError(f"{file} has no classifier.weight: it is no classifier", remedy=EXPECTED)
            return Weights(state, "transformers", architecture_from(self.config, classes))
        state = _read_file(file)
        origin: Origin = "timm" if is_timm(state) else "microsoft"
        if origin == "timm":
            state = from_timm(state)
        _check_marks(file, state, _OTHERS)
        try:
            shape = architecture_of(shapes_of(state))
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error.message}", remedy=error.remedy) from error
        return Weights(without_buffers(state), origin, shape)


@dataclass(frozen=True)
class Weights:
    """The ``tensors`` as stored, by Microsoft's names, who wrote them, and the sizes of the network."""

    tensors: dict[str, Tensor]
    origin: Origin
    shape: Architecture


def open_checkpoint(source: str) -> Checkpoint:
    """Find out what ``source`` is: a file, a folder, or a name on the hub, which is downloaded.

    Raises CheckpointError where there is no such model.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return Checkpoint(path.parent, (path,), {})
    if not path.is_dir():
        if not is_hub_name(source):
            raise CheckpointError(f"{source} does not exist", remedy=EXPECTED)
        path = download(source)
    config, files = read_folder(path, (), EXPECTED, "*.pth*")
    if "pretrained_cfg" in config:
        raise CheckpointError(f"{path} is a folder of timm", remedy=f"Name the file in it: {files[0]}.")
    config, files = read_folder(path, MODEL_TYPES, EXPECTED, "*.pth*")
    return Checkpoint(path, files, config)


def _read_file(file: Path) -> dict[str, Tensor]:
    """The state_dict of a file: bare, or under ``model`` or ``state_dict``. Names may begin with ``module.``."""
    if file.suffix == ".safetensors":
        return read_weights((file,), EXPECTED)
    state = read_state(file, EXPECTED, ("model", "state_dict"), [(Inert, name) for name in _SETTINGS])
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _check_marks(file: Path, state: Mapping[str, Tensor], others: Mapping[str, str]) -> None:
    other = next((what for mark, what in others.items() if mark in state), None)
    missing = [mark for mark in _MARKS if mark not in state]
    if other is None and len(missing) <= len(_MARKS) // 2:
        return
    detail = f"it is {other}" if other else f"missing {some(missing)}; it has {some(list(state))}"
    raise CheckpointError(f"{file} is not a Swin checkpoint that can be read: {detail}", remedy=EXPECTED)
