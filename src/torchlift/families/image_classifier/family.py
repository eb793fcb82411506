"""The family of image classifiers that transformers opens. One loader serves all architectures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torchlift.checksums import key_of, sha256
from torchlift.declare.answers import Activation
from torchlift.errors import CheckpointError
from torchlift.families.attention import Attention
from torchlift.families.base import Family, LoadOptions, Model
from torchlift.families.classifier import AXES, Classifier, Networks, labels_of, names_in, signature_of
from torchlift.families.image_classifier.network import ClassifierNetwork, build, classes_of
from torchlift.families.preprocessing import at_resolution, read_processor
from torchlift.families.transformers_folder import download, is_hub_name, read_folder, read_weights

INPUT, OUTPUT = "image", "logits"
"""The names of the tensors."""

EXPECTED = (
    "A source is a folder that transformers saved from an image classifier, such as ViTForImageClassification, with "
    "config.json, preprocessor_config.json and weights, or a hub name such as google/vit-base-patch16-224."
)

_BETTER = {"swin": "swin", "swinv2": "swin", "mobilevit": "mobilevit"}
"""A kind of model -> the family that exports a smaller graph of it."""

_ACTIVATIONS: Mapping[str | None, Activation] = {"multi_label_classification": "sigmoid"}
"""What scores are made of logits with, by the problem_type of a config.json; softmax where it states another one."""


class ImageClassifierFamily(Family):
    """Reads folders and hub names of what transformers' AutoModelForImageClassification opens."""

    name: ClassVar[str] = "image-classifier"

    def load(self, source: str, options: LoadOptions) -> Model:
        """Find the model at ``source``, and check its weights, its preprocessing and its labels against each other.

        Raises CheckpointError (UnsafeCheckpointError for a pickle with code in it), SourceError for a resolution that
        is no size, SignatureError for axes that do not fit.
        """
        options.check_axes(AXES)
        folder = _folder(source)
        config, files = read_folder(folder, (), EXPECTED, "*.pth*")
        network = build(folder, files[-1], read_weights(files, EXPECTED), "eager", EXPECTED)
        picture = at_resolution(
            read_processor(folder, "Copy it from the model on the hub, or correct it."), options.resolution
        )
        assert picture.size is not None
        remedy = "Leave `resolution=` out." if options.resolution else "Correct the size in preprocessor_config.json."
        classes = classes_of(network, files[-1], picture.size, remedy)
        activation = _activation(folder, config)
        labels = labels_of(names_in(config, classes), classes, activation=activation)
        signature = signature_of(INPUT, OUTPUT, picture, classes, options)
        kind = str(config["model_type"])
        better = _BETTER.get(kind)
        said = f"the family {better} exports {kind} as a smaller graph: ship it as {better}"
        return ImageClassifierModel(
            name=f"{kind}-{picture.size[0]}",
            family=self.name,
            settings={"resolution": options.resolution} if options.resolution else {},
            key=key_of(self.name, [sha256(file) for file in files], config, picture, labels, signature),
            signature=signature,
            picture=picture,
            labels=labels,
            notes=(said,) if better else (),
            folder=folder,
            files=files,
        )


@dataclass(frozen=True, kw_only=True)
class ImageClassifierModel(Classifier):
    """A classifier in a folder of transformers."""

    folder: Path
    files: tuple[Path, ...]

    def networks(self, style: Attention) -> Networks:
        """Read the weights. Raises CheckpointError for weights that are not finite."""
        network: ClassifierNetwork = build(
            self.folder, self.files[-1], read_weights(self.files, EXPECTED), style, EXPECTED
        )
        return Networks(network, network, inner="network")


def _folder(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{source} is a file, not a folder of transformers", remedy=EXPECTED)
    if not is_hub_name(source):
        raise CheckpointError(f"{source} does not exist", remedy=EXPECTED)
    return download(source)


def _activation(folder: Path, config: Mapping[str, Any]) -> Activation:
    problem = config.get("problem_type")
    if problem == "regression":
        raise CheckpointError(f"{folder} holds a regression, not a classifier", remedy=EXPECTED)
    return _ACTIVATIONS.get(problem, "softmax")
