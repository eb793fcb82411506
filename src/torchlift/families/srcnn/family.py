"""The family SRCNN. A model has one component, its network, which takes a picture and a factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from torchlift.checksums import key_of, sha256
from torchlift.declare.answers import Picture
from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError, SourceError
from torchlift.families.base import Family, LoadOptions, Model, ModelComponent
from torchlift.families.srcnn.network import MOST, Architecture, Srcnn, architecture_of
from torchlift.families.transformers_folder import read_weights
from torchlift.families.weights import fill, read_state, shapes_of
from torchlift.signature import Axis, Signature, TensorSpec

COMPONENT = "model"
IMAGE, FACTOR, OUTPUT = "image", "factor", "output"

EXPECTED = (
    "An SRCNN source is a .pth file of mmagic or mmediting (state_dict with generator.conv1.weight to "
    "generator.conv3.bias, of three colours), or a .pth or .safetensors file with these weights alone."
)

AXES = (Axis("batch", 1, 1, 4), Axis("height", 1, 64, 256), Axis("width", 1, 64, 256))
"""Larger pictures are cut into tiles, so that the largest size here is that of a tile."""

PICTURE = ImageInput(size=None)
"""mmagic's configuration: R, G, B from 0 to 1."""

_PREFIXES = ("module.", "generator.")
_IGNORED = ("data_preprocessor.", "step_counter")
"""What mmagic keeps beside the network: its mean and standard deviation, and a count."""

_SAMPLED = 1 << 20
"""Pixels of an enlarged batch that a sample has at most, 12 MiB of float32."""


class SrcnnFamily(Family):
    """Reads ``.pth`` files of mmagic and mmediting, and plain files of these weights."""

    name: ClassVar[str] = "srcnn"

    def load(self, source: str, options: LoadOptions) -> Model:
        """Find the file, and check its weights by name and shape.

        Raises CheckpointError (UnsafeCheckpointError for a pickle with code in it), SourceError for a resolution,
        SignatureError for axes that it does not have.
        """
        options.check_axes({COMPONENT: [axis.name for axis in AXES]})
        if options.resolution is not None:
            raise SourceError(
                f"`resolution={options.resolution}` is stated, and SRCNN takes pictures of every size",
                remedy="Leave it out.",
            )
        file = Path(source).expanduser()
        if not file.is_file():
            raise CheckpointError(f"{source} does not exist", remedy=EXPECTED)
        architecture = architecture_of(shapes_of(_read(file)), str(file), EXPECTED)
        axes = tuple(options.axis(COMPONENT, axis) for axis in AXES)
        signature = Signature(
            (
                TensorSpec(IMAGE, "float32", ("batch", 3, "height", "width"), bounds=(0, 1), strict=False),
                TensorSpec(FACTOR, "int64", (), bounds=(1, MOST + 1)),
            ),
            (TensorSpec(OUTPUT, "float32", ("batch", 3, None, None)),),
            axes,
        )
        answer = Picture(factor=FACTOR, margin=architecture.margin)
        key = key_of(self.name, sha256(file), PICTURE, answer, signature)
        return SrcnnModel(architecture.name, key, file, architecture, signature, answer)


@dataclass(frozen=True)
class SrcnnModel(Model):
    """An SRCNN on disk, with the component ``model``."""

    name: str
    key: str
    file: Path
    architecture: Architecture
    signature: Signature
    answer: Picture
    family: str = SrcnnFamily.name
    settings: Mapping[str, Any] = field(default_factory=dict)
    assets: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    pipeline: str = "super-resolution"
    component_names: tuple[str, ...] = (COMPONENT,)

    def declared(self, name: str) -> Signature:
        return self.signature

    def component(self, name: str, *, attention: str = "sdpa") -> ModelComponent:
        """Load the network. Raises SourceError for an unknown name, CheckpointError for weights that are not finite."""
        self.check_component(name)
        with torch.device("meta"):
            network = Srcnn(self.architecture)
        fill(network, _read(self.file))
        return ModelComponent(
            name=name,
            signature=self.signature,
            reference=network,
            exported=network,
            sample=sample,
            inputs={IMAGE: PICTURE},
            answers={OUTPUT: self.answer},
            keep_int8=("conv3",),
        )


def sample(sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Smooth pictures with edges and a little noise, and a factor that keeps the enlarged batch small."""
    batch, height, width = (sizes[axis.name] for axis in AXES)
    coarse = rng.random((batch, 3, -(-height // 8), -(-width // 8)), dtype=np.float32)
    image = coarse.repeat(8, axis=2).repeat(8, axis=3)[..., :height, :width]
    image = (image + 0.05 * rng.standard_normal(image.shape, dtype=np.float32)).clip(0, 1)
    most = int((_SAMPLED / (batch * height * width)) ** 0.5)
    factor = rng.integers(min(2, max(1, most)), min(max(1, most), 4) + 1)
    return {IMAGE: np.ascontiguousarray(image, np.float32), FACTOR: np.array(factor, np.int64)}


def _read(file: Path) -> dict[str, Tensor]:
    """The weights by their names within the network. Raises CheckpointError."""
    state = read_weights([file], EXPECTED) if file.suffix == ".safetensors" else read_state(file, EXPECTED)
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_IGNORED):
            continue
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if name in found:
            raise CheckpointError(f"{file} has the weight {name} twice", remedy=EXPECTED)
        found[name] = tensor
    return found
