"""The family Swin. A model has one component, its network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from torchlift.checksums import key_of, sha256
from torchlift.families.attention import Attention
from torchlift.families.base import Family, LoadOptions, Model
from torchlift.families.classifier import (
    AXES,
    LABELS_FILE,
    Classifier,
    Networks,
    labels_of,
    names_in,
    read_labels,
    signature_of,
)
from torchlift.families.preprocessing import preprocessing_file
from torchlift.families.swin.architecture import Architecture
from torchlift.families.swin.checkpoint import EXPECTED, Checkpoint, Origin, Weights, open_checkpoint
from torchlift.families.swin.exported import exported_of
from torchlift.families.swin.network import Swin
from torchlift.families.swin.preprocessing import find_preprocessing
from torchlift.families.transformers_folder import PREPROCESSING_FILES
from torchlift.families.weights import check_weights, fill, shapes_of

INPUT, OUTPUT = "image", "logits"
"""The names of the tensors."""

_TABLE = ".relative_position_bias_table"


class SwinFamily(Family):
    """Reads Microsoft's ``.pth`` files, timm's, transformers' swin and swinv2 folders, and names on the hub."""

    name: ClassVar[str] = "swin"

    def load(self, source: str, options: LoadOptions) -> Model:
        """Find the model at ``source``, and check its weights by name and shape.

        Raises CheckpointError (UnsafeCheckpointError for a pickle with code in it), SourceError for a resolution that
        does not fit, SignatureError for axes that do not.
        """
        options.check_axes(AXES)
        checkpoint = open_checkpoint(source)
        found = checkpoint.read()
        check_weights(
            "Swin",
            checkpoint.files[-1],
            shapes_of(found.tensors),
            shapes_of(_build(found.shape).state_dict()),
            EXPECTED,
        )
        shape = found.shape if options.resolution is None else found.shape.at(options.resolution)
        picture = find_preprocessing(checkpoint.folder, found.origin, found.shape.resolution, options.resolution)
        names = names_in(checkpoint.config, shape.classes) or read_labels(
            checkpoint.folder / LABELS_FILE, shape.classes
        )
        labels = labels_of(names, shape.classes)
        signature = signature_of(INPUT, OUTPUT, picture, shape.classes, options)
        return SwinModel(
            name=shape.name,
            family=self.name,
            settings={"resolution": options.resolution} if options.resolution else {},
            key=key_of(self.name, [sha256(file) for file in checkpoint.files], shape, picture, labels, signature),
            signature=signature,
            picture=picture,
            labels=labels,
            notes=_notes(checkpoint.folder, found.origin),
            checkpoint=checkpoint,
            shape=shape,
        )


@dataclass(frozen=True, kw_only=True)
class SwinModel(Classifier):
    """A Swin Transformer on disk, at the resolution of ``shape``."""

    checkpoint: Checkpoint
    shape: Architecture

    def networks(self, style: Attention) -> Networks:
        """Read the weights. Raises CheckpointError for weights that are not finite."""
        network, found = _build(self.shape), self.checkpoint.read()
        fill(network, _at(found, self.shape))
        return Networks(network, exported_of(network, style))


def _notes(folder: Path, origin: Origin) -> tuple[str, ...]:
    if origin != "transformers" or preprocessing_file(folder) is not None:
        return ()
    return (
        f"{folder} has no {PREPROCESSING_FILES[0]}: pictures are stretched and normalised as ImageNet's, as for all "
        "published Swins of transformers",
    )


def _build(shape: Architecture) -> Swin:
    """The network on the meta device, which has shapes but no weights."""
    with torch.device("meta"):
        return Swin(shape)


def _at(found: Weights, shape: Architecture) -> dict[str, Tensor]:
    """The weights for windows of other sizes. Swin V2 computes its bias for any window."""
    if found.shape.windows == shape.windows:
        return found.tensors
    return {
        name: _resized(table, shape.windows[int(name.split(".")[1])]) if name.endswith(_TABLE) else table
        for name, table in found.tensors.items()
    }


def _resized(table: Tensor, window: int) -> Tensor:
    """Resize a table [(2 * old - 1)^2, heads] to another window, bicubic, as Microsoft's load_pretrained does."""
    old, new = round(len(table) ** 0.5), 2 * window - 1
    if old == new:
        return table
    square = table.float().T.reshape(1, -1, old, old)
    return F.interpolate(square, size=(new, new), mode="bicubic").flatten(2)[0].T
