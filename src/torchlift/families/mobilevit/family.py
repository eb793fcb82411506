"""The family MobileViT. A model has one component, its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from torchlift.checksums import key_of, sha256
from torchlift.errors import CheckpointError
from torchlift.families.attention import Attention
from torchlift.families.base import Family, LoadOptions, Model
from torchlift.families.classifier import (
    AXES,
    LABELS_FILE,
    Classifier,
    Networks,
    labels_of,
    read_labels,
    signature_of,
)
from torchlift.families.fake_quant import fold_norms, modules_of
from torchlift.families.mobilevit.architecture import architecture_of
from torchlift.families.mobilevit.checkpoint import EXPECTED, Checkpoint, TransformersFolder, open_checkpoint
from torchlift.families.mobilevit.exported import exported_of
from torchlift.families.mobilevit.network import MobileViT
from torchlift.families.mobilevit.preprocessing import find_preprocessing
from torchlift.families.mobilevit.transformers_network import TransformersMobileViT, build, read_config
from torchlift.families.weights import check_weights, fill, shapes_of
from torchlift.graph.scales import Scales

INPUT, OUTPUT = "input", "class"
"""The names of the tensors in the reference's deployment. The output is logits."""


class MobileViTFamily(Family):
    """Reads the reference project's ``.pth.tar`` files, transformers' mobilevit folders, and names on the hub."""

    name: ClassVar[str] = "mobilevit"

    def load(self, source: str, options: LoadOptions) -> Model:
        """Find the model at ``source``, and check its weights by name and shape.

        Raises CheckpointError (UnsafeCheckpointError for a pickle with code in it), SourceError for a resolution that
        does not fit, SignatureError for axes that do not.
        """
        options.check_axes(AXES)
        checkpoint = open_checkpoint(source)
        network = _build(checkpoint)
        shapes = shapes_of(network.state_dict())
        found = checkpoint.read()
        check_weights("MobileViT", checkpoint.files[-1], found.shapes, shapes, EXPECTED)
        classes = shapes["fc.weight" if isinstance(network, MobileViT) else "classifier.weight"][0]
        picture = find_preprocessing(checkpoint.folder, options.resolution)
        labels = labels_of(_names(checkpoint, classes), classes)
        signature = signature_of(INPUT, OUTPUT, picture, classes, options)
        config = checkpoint.config if isinstance(checkpoint, TransformersFolder) else None
        return MobileViTModel(
            name=_name(checkpoint, found.shapes),
            family=self.name,
            settings={"resolution": options.resolution} if options.resolution else {},
            key=key_of(self.name, [sha256(file) for file in checkpoint.files], config, picture, labels, signature),
            signature=signature,
            picture=picture,
            labels=labels,
            checkpoint=checkpoint,
        )


@dataclass(frozen=True, kw_only=True)
class MobileViTModel(Classifier):
    """A MobileViT on disk."""

    checkpoint: Checkpoint

    def networks(self, style: Attention) -> Networks:
        """Read the weights. Raises CheckpointError for weights that are not finite."""
        network, found = _build(self.checkpoint), self.checkpoint.read()
        fill(network, found.tensors)
        scales = modules_of(network, fold_norms(network, _from_stub(found.scales)))
        return Networks(network, exported_of(network, style), scales)


def _from_stub(scales: Mapping[str, Scales]) -> dict[str, Scales]:
    """Move the range of the image, which torch.ao stores at a QuantStub, to the input of the first convolution."""
    stub, first = scales.get("quant", Scales()), scales.get("stem.0", Scales())
    return {**scales, "stem.0": replace(first, input=first.input or stub.output)} if stub.output else dict(scales)


def _build(checkpoint: Checkpoint) -> MobileViT | TransformersMobileViT:
    """Build the network on the meta device, from the shapes of the weights or from config.json."""
    if isinstance(checkpoint, TransformersFolder):
        return build(read_config(checkpoint.config))
    shapes = checkpoint.read().shapes
    try:
        architecture = architecture_of(shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.files[-1]}: {error.message}", remedy=error.remedy) from error
    with torch.device("meta"):
        return MobileViT(architecture)


def _name(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> str:
    if isinstance(checkpoint, TransformersFolder):
        return f"mobilevit-apple-{'x'.join(str(width) for width in read_config(checkpoint.config).hidden_sizes)}"
    return architecture_of(shapes).name


def _names(checkpoint: Checkpoint, classes: int) -> tuple[str, ...] | None:
    """The names of the classes, from config.json or from a file beside the checkpoint."""
    if isinstance(checkpoint, TransformersFolder):
        names = read_config(checkpoint.config).id2label
        return tuple(str(names[number]) for number in range(classes))
    return read_labels(checkpoint.folder / LABELS_FILE, classes)
