"""What the classifiers of pictures share: a model with one network, the names of its classes, the check of weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchlift.declare.answers import Labels
from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError, SourceError, some
from torchlift.families.attention import STYLES, Attention
from torchlift.families.base import LoadOptions, Model, ModelComponent
from torchlift.families.samples import PictureSampler
from torchlift.families.transformers_folder import as_float32
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
        if name not in self.component_names:
            raise SourceError(f"{self.name} has no component {name!r}", remedy=f"Its component is {COMPONENT}.")
        style = next((s for s in STYLES if s == attention), None)
        if style is None:
            raise SourceError(f"attention {attention!r} is not known", remedy=f"Use {' or '.join(STYLES)}.")
        networks = self.networks(style)
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


def check_weights(
    what: str, file: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], remedy: str
) -> None:
    """Compare names and shapes of weights with ``expected``. Raises CheckpointError with some that differ."""
    wrong = [f"{n} is {list(found[n])}, not {list(s)}" for n, s in expected.items() if n in found and found[n] != s]
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "wrong shapes:": wrong,
    }
    text = "; ".join(f"{problem} {some(names)}" for problem, names in problems.items() if names)
    if text:
        raise CheckpointError(f"{file} does not fit {what}: {text}", remedy=remedy)


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network on the meta device its weights, and put it in eval mode. float32 weights are not copied.

    Raises CheckpointError for a weight that is not finite, or no floating point.
    """
    state = {name: as_float32(name, tensors[name], needed) for name, needed in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    network.eval().requires_grad_(False)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
