"""The family YOLOv5, with YOLOv8 and 11, which are stored alike. A model has one component, its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from torchlift.checksums import key_of, sha256
from torchlift.declare.answers import Boxes
from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError, SourceError
from torchlift.families.attention import style_of
from torchlift.families.base import Family, LoadOptions, Model, ModelComponent
from torchlift.families.samples import PictureSampler
from torchlift.families.yolov5.builder import EXPECTED
from torchlift.families.yolov5.found import Found, find_model
from torchlift.families.yolov5.network import Network, folded
from torchlift.families.yolov5.records import read_records
from torchlift.families.yolov5.wts import read_wts
from torchlift.signature import Axis, Signature, TensorSpec

COMPONENT = "model"
INPUT, OUTPUT = "images", "output0"
"""The names of the tensors in the reference's own exports."""

AXES = {COMPONENT: ("batch", "height", "width")}
RESOLUTION, LARGEST = 640, 1280
"""Pixels: the long side that pictures are fitted into, and the largest that the network is proven at."""

OVERLAP = {True: 0.45, False: 0.7}
"""The overlap from which on the worse of two boxes goes: of YOLOv5's detect.py, and of YOLOv8."""


class YoloFamily(Family):
    """Reads ``.pt`` files that YOLOv5, YOLOv8 and YOLO11 saved, and ``.wts`` files of YOLOv5."""

    name: ClassVar[str] = "yolov5"

    def load(self, source: str, options: LoadOptions) -> Model:
        """Find the model at ``source``, build it, and check that its layers fit each other.

        Raises CheckpointError (UnsafeCheckpointError for a pickle that names code of others), SourceError for a
        resolution that is no multiple of the stride, SignatureError for axes that do not fit.
        """
        options.check_axes(AXES)
        file = Path(source).expanduser()
        if not file.is_file():
            raise CheckpointError(
                f"{source} does not exist" if not file.exists() else f"{source} is no file", remedy=EXPECTED
            )
        found = read_model(file)
        head = _shape_of(found, file)
        stride = max(found.strides)
        axes = _axes(options, stride)
        _, height, width = axes
        answer = Boxes(_class_names(found, head.classes, file), head.objectness, overlap=OVERLAP[head.objectness])
        signature = Signature(
            (TensorSpec(INPUT, "float32", ("batch", 3, "height", "width")),),
            (TensorSpec(OUTPUT, "float32", head.output(found.strides)),),
            axes,
        )
        narrow = all(axis.min == stride for axis in (height, width))
        picture = ImageInput(
            (height.opt, width.opt),
            resample="linear",
            fit="letterbox",
            convert="first",
            stride=stride if narrow else None,
        )
        return YoloModel(
            name=f"yolo-{head.classes}-classes",
            family=self.name,
            settings={"resolution": options.resolution} if options.resolution else {},
            assets={},
            key=key_of(self.name, sha256(file), picture, answer, signature),
            component_names=(COMPONENT,),
            file=file,
            signature=signature,
            picture=picture,
            answer=answer,
        )


@dataclass(frozen=True)
class YoloModel(Model):
    """A YOLO on disk, with the component ``model``."""

    name: str
    family: str
    settings: Mapping[str, Any]
    assets: Mapping[str, tuple[str, bytes]]
    key: str
    component_names: tuple[str, ...]
    file: Path
    signature: Signature
    picture: ImageInput
    answer: Boxes
    pipeline: str = "detection"

    def declared(self, name: str) -> Signature:
        return self.signature

    def component(self, name: str, *, attention: str = "sdpa") -> ModelComponent:
        """Load the network. ``images`` are float32 [batch, 3, height, width], RGB 0 to 1.

        Raises SourceError for an unknown name or attention, CheckpointError for weights that are not finite.
        """
        self.check_component(name)
        network = read_model(self.file).build(style_of(attention))
        return ModelComponent(
            name=name,
            signature=self.signature,
            reference=network,
            exported=folded(network),
            sample=PictureSampler(INPUT, None, self.picture.mean, self.picture.std),
            inputs={INPUT: self.picture},
            answers={OUTPUT: self.answer},
            keep=("head.decode",),
        )


def read_model(file: Path) -> Found:
    """What a checkpoint says of its network, by the kind of the file."""
    if file.suffix == ".wts":
        return read_wts(file)
    return find_model(read_records(file, EXPECTED), str(file))


@dataclass(frozen=True)
class _Shape:
    """What comes out of a network: the classes, the boxes of a cell, and whether boxes have an objectness."""

    classes: int
    boxes_a_cell: int
    objectness: bool

    def output(self, strides: tuple[int, ...]) -> tuple[int | str, ...]:
        """The shape of the output. Height and width are multiples of the largest stride."""
        largest = max(strides)
        boxes = self.boxes_a_cell * sum((largest // stride) ** 2 for stride in strides)
        count = f"{boxes} * (height // {largest}) * (width // {largest})"
        return ("batch", count, 5 + self.classes) if self.objectness else ("batch", 4 + self.classes, count)


def _shape_of(found: Found, file: Path) -> _Shape:
    """Run the network on shapes alone. Raises CheckpointError where its layers do not fit each other."""
    network: Network = found.build().to("meta")
    side = 2 * max(found.strides)
    try:
        with torch.device("meta"):
            maps = network.maps(torch.empty(1, 3, side, side))
            sizes = [side // x.shape[-1] for x in maps]
            boxes = network.head(maps)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise CheckpointError(f"{file}: its layers do not fit each other: {error}", remedy=EXPECTED) from error
    if tuple(sizes) != found.strides:
        raise CheckpointError(
            f"{file} states the strides {list(found.strides)}, and its layers have {sizes}", remedy=EXPECTED
        )
    head = network.head
    classes = boxes.shape[2] - 5 if head.objectness else boxes.shape[1] - 4
    if classes < 1:
        raise CheckpointError(f"{file} has a head of {classes} classes", remedy=EXPECTED)
    return _Shape(int(classes), head.boxes_a_cell, head.objectness)


def _class_names(found: Found, classes: int, file: Path) -> tuple[str, ...]:
    if found.names and len(found.names) != classes:
        raise CheckpointError(
            f"{file} names {len(found.names):,} classes; its head has {classes:,}", remedy="The file is damaged."
        )
    return found.names or tuple(f"class {number}" for number in range(classes))


def _axes(options: LoadOptions, stride: int) -> tuple[Axis, Axis, Axis]:
    side = RESOLUTION if options.resolution is None else options.resolution
    if side < stride or side % stride:
        near = max(1, round(side / stride)) * stride
        raise SourceError(
            f"pictures of {side} x {side} pixels do not divide into cells of {stride}",
            remedy=f"Use a multiple, such as `resolution={near}`.",
        )
    sides = [
        options.axis(COMPONENT, Axis(name, stride, side, max(side, LARGEST), step=stride))
        for name in ("height", "width")
    ]
    return options.axis(COMPONENT, Axis("batch", 1, 1, 8)), sides[0], sides[1]
