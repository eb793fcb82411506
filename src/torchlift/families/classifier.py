"""What the classifiers of pictures share: a model with one network, the names of its classes, the check of weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from torchlift.declare.answers import Labels
from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError
from torchlift.families.attention import Attention, style_of
from torchlift.families.base import LoadOptions, Model, ModelComponent
from torchlift.families.samples import PictureSampler
from torchlift.graph.scales import Scales
from torchlift.signature import Axis, Signature, TensorSpec

COMPONENT = "model"

AXES = {COMPONENT: ("batch",)}
"""Component -> the axes that may vary."""

LABELS_FILE = "labels.txt"
"""A file beside a checkpoint with the names of the classes, one a line."""

BEST = 5
"""How many classes are answered, best first."""


@dataclass(frozen=True)
class Networks:
    """The published network, the one that is exported, and learnt scales by the path of a module in it.

    ``inner`` is the path of the network within ``exported``, which names of modules leave out.
    """

    reference: nn.Module
    exported: nn.Module
    scales: Mapping[str, Scales] = field(default_factory=dict)
    inner: str = ""


@dataclass(frozen=True)
class Classifier(Model):
    """A classifier of pictures with the component ``model``: one picture input, and one output of logits.

    Only the batch varies: ``signature`` is of pictures float32 [batch, 3, height, width] and logits float32 [batch,
    classes].
    """

    name: str
    family: str
    settings: Mapping[str, Any]
    key: str
    signature: Signature
    picture: ImageInput
    labels: Labels
    notes: tuple[str, ...] = ()
    assets: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    component_names: tuple[str, ...] = (COMPONENT,)

    @abstractmethod
    def networks(self, style: Attention) -> Networks:
        """Read the weights. Both networks are in eval mode. Raises CheckpointError for weights that are not finite."""

    def declared(self, name: str) -> Signature:
        return self.signature

    def component(self, name: str, *, attention: str = "sdpa") -> ModelComponent:
        """Load the network. Raises SourceError for an unknown name or attention, CheckpointError for its weights."""
        self.check_component(name)
        networks = self.networks(style_of(attention))
        (given,), (answer,) = self.signature.inputs, self.signature.outputs
        assert self.picture.size is not None
        return ModelComponent(
            name=name,
            signature=self.signature,
            reference=networks.reference,
            exported=networks.exported,
            sample=PictureSampler(given.name, self.picture.size, self.picture.mean, self.picture.std),
            inputs={given.name: self.picture},
            answers={answer.name: self.labels},
            scales=networks.scales,
            inner=networks.inner,
        )


def signature_of(given: str, answer: str, picture: ImageInput, classes: int, options: LoadOptions) -> Signature:
    """The signature of a classifier. ``given`` and ``answer`` are the names of the tensors."""
    assert picture.size is not None
    return Signature(
        (TensorSpec(given, "float32", ("batch", 3, *picture.size)),),
        (TensorSpec(answer, "float32", ("batch", classes)),),
        (options.axis(COMPONENT, Axis("batch", 1, 8, 64)),),
    )


def labels_of(names: tuple[str, ...] | None, classes: int, **declared: Any) -> Labels:
    """The labels of a classifier; its classes have numbers where nothing names them."""
    return Labels(names or tuple(f"class {n}" for n in range(classes)), top=min(BEST, classes), **declared)


def read_labels(file: Path, classes: int) -> tuple[str, ...] | None:
    """Read the names of the classes; None where there is no file.

    Raises CheckpointError for a wrong number of names.
    """
    if not file.is_file():
        return None
    try:
        names = tuple(line.strip() for line in file.read_text("utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file} is not UTF-8: {error}", remedy="Save it as UTF-8.") from error
    if len(names) != classes:
        raise CheckpointError(
            f"{file} names {len(names):,} classes; the checkpoint has {classes:,}",
            remedy="Write a name a line, in the order of the classes, or remove the file.",
        )
    return names


def names_in(config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """The names of the classes in a config.json of transformers; None where it names none.

    Raises CheckpointError where it names other classes than the network has.
    """
    stated = config.get("id2label")
    if not stated:
        return None
    names = {str(number): str(name) for number, name in dict(stated).items()}
    if {*names} != {str(number) for number in range(classes)}:
        raise CheckpointError(
            f"config.json names {len(names):,} classes in id2label; the weights have {classes:,}",
            remedy="Correct id2label: it must name 0 to the number of classes minus 1.",
        )
    return tuple(names[str(number)] for number in range(classes))
