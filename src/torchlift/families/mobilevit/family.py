"""The family MobileViT. A model has one component, its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from torchlift.checksums import key_of, sha256
from torchlift.declare.answers import Labels
from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError, SourceError
from torchlift.families.attention import STYLES
from torchlift.families.base import Family, LoadOptions, Model, ModelComponent
from torchlift.families.fake_quant import fold_norms, modules_of
from torchlift.families.mobilevit.architecture import architecture_of
from torchlift.families.mobilevit.checkpoint import (
    LABELS_FILE,
    Checkpoint,
    TransformersFolder,
    check_weights,
    open_checkpoint,
    read_labels,
)
from torchlift.families.mobilevit.exported import exported_of
from torchlift.families.mobilevit.network import MobileViT
from torchlift.families.mobilevit.preprocessing import find_preprocessing
from torchlift.families.mobilevit.transformers_network import TransformersMobileViT, build, read_config
from torchlift.families.samples import PictureSampler
from torchlift.families.transformers_folder import as_float32
from torchlift.graph.scales import Scales
from torchlift.signature import Axis, Signature, TensorSpec

COMPONENT = "model"
INPUT, OUTPUT = "input", "class"
"""The names of the tensors in the reference's deployment. The output is logits."""

AXES = {COMPONENT: ("batch",)}
"""Component -> the axes that may vary."""


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
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        found = checkpoint.read()
        check_weights(checkpoint, found, shapes)
        classes = shapes["fc.weight" if isinstance(network, MobileViT) else "classifier.weight"][0]
        picture = find_preprocessing(checkpoint.folder, options.resolution)
        size = picture.size
        assert size is not None
        labels = Labels(_names(checkpoint, classes), top=min(5, classes))
        signature = Signature(
            (TensorSpec(INPUT, "float32", ("batch", 3, *size)),),
            (TensorSpec(OUTPUT, "float32", ("batch", classes)),),
            (options.axis(COMPONENT, Axis("batch", 1, 8, 64)),),
        )
        settings = {"resolution": options.resolution} if options.resolution else {}
        config = checkpoint.config if isinstance(checkpoint, TransformersFolder) else None
        return MobileViTModel(
            name=_name(checkpoint, found.shapes),
            family=self.name,
            settings=settings,
            assets={},
            key=key_of(self.name, [sha256(file) for file in checkpoint.files], config, picture, labels, signature),
            component_names=(COMPONENT,),
            checkpoint=checkpoint,
            signature=signature,
            picture=picture,
            labels=labels,
        )


@dataclass(frozen=True)
class MobileViTModel(Model):
    """A MobileViT on disk, with the component ``model``."""

    name: str
    family: str
    settings: Mapping[str, Any]
    assets: Mapping[str, tuple[str, bytes]]
    key: str
    component_names: tuple[str, ...]
    checkpoint: Checkpoint
    signature: Signature
    picture: ImageInput
    labels: Labels

    @property
    def resolution(self) -> int:
        """Pixels of a side of the square pictures."""
        assert self.picture.size is not None
        return self.picture.size[0]

    def declared(self, name: str) -> Signature:
        return self.signature

    def component(self, name: str, *, attention: str = "sdpa") -> ModelComponent:
        """Load the network. ``input`` is float32 [batch, 3, R, R]; ``class`` are logits, float32 [batch, classes].

        Raises SourceError for an unknown name or attention, CheckpointError for weights that are not finite.
        """
        if name not in self.component_names:
            raise SourceError(f"{self.name} has no component {name!r}", remedy=f"Its component is {COMPONENT}.")
        style = next((s for s in STYLES if s == attention), None)
        if style is None:
            raise SourceError(f"attention {attention!r} is not known", remedy=f"Use {' or '.join(STYLES)}.")
        network, found = _build(self.checkpoint), self.checkpoint.read()
        state = {key: as_float32(key, found.tensors[key], needed) for key, needed in network.state_dict().items()}
        network.load_state_dict(state, assign=True)
        network.eval().requires_grad_(False)
        return ModelComponent(
            name=name,
            signature=self.signature,
            reference=network,
            exported=exported_of(network, style),
            sample=PictureSampler(INPUT, self.resolution, self.picture.mean, self.picture.std),
            inputs={INPUT: self.picture},
            answers={OUTPUT: self.labels},
            scales=modules_of(network, fold_norms(network, _from_stub(found.scales))),
        )


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


def _names(checkpoint: Checkpoint, classes: int) -> tuple[str, ...]:
    """The names of the classes: from config.json, from a file beside the checkpoint, or made of their numbers."""
    if isinstance(checkpoint, TransformersFolder):
        names = read_config(checkpoint.config).id2label
        return tuple(str(names[number]) for number in range(classes))
    return read_labels(checkpoint.folder / LABELS_FILE, classes) or tuple(f"class {n}" for n in range(classes))
