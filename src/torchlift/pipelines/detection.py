"""A detector opened for use: pictures in, boxes with names and scores out, in pixels of each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from torchlift.backends import Session
from torchlift.declare.answers import Boxes
from torchlift.declare.inputs import ImageInput
from torchlift.errors import BundleError, InputError
from torchlift.manifest import Component, Manifest
from torchlift.pipelines.base import Pipeline, ends_when_closed
from torchlift.pipelines.columns import Prepared
from torchlift.pipelines.prepare import listed
from torchlift.pipelines.run import Batching, Loader, run_each
from torchlift.processing.boxes import Detection, Found, found_boxes
from torchlift.processing.image import Frame, ImageSource, frame_of
from torchlift.progress import Stage


@dataclass(frozen=True)
class Detector:
    """The component that detects, its input of pictures, and its output of boxes."""

    component: Component
    image: str
    output: str

    @property
    def declared(self) -> Boxes:
        """What the output is declared to be."""
        declared = self.component.answers[self.output]
        assert isinstance(declared, Boxes)
        return declared

    @property
    def picture(self) -> ImageInput:
        """How pictures are prepared."""
        declared = self.component.inputs[self.image]
        assert isinstance(declared, ImageInput)
        return declared


def detector_of(manifest: Manifest) -> Detector | None:
    """The detector of a bundle: its only component, with one input of pictures and one output of boxes; else None."""
    if len(manifest.components) != 1:
        return None
    (component,) = manifest.components
    outputs = [name for name, answer in component.answers.items() if isinstance(answer, Boxes)]
    pictures = component.inputs_of(ImageInput)
    if len(outputs) != 1 or len(pictures) != 1 or len(component.signature.inputs) != 1:
        return None
    return Detector(component, pictures[0], outputs[0])


class DetectionPipeline(Pipeline):
    """A bundle with one component that detects, called with pictures."""

    def _set_up(self) -> None:
        detector = detector_of(self.bundle.manifest)
        if detector is None:
            raise BundleError(
                f"{self.bundle.path} has no component with one input of pictures and one output of boxes",
                remedy="Ship the model again.",
            )
        self.detector = detector
        self.component = detector.component.name

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.detector.declared.names

    def __call__(
        self,
        images: Sequence[ImageSource],
        *,
        confidence: float | None = None,
        overlap: float | None = None,
        classes: Sequence[str] = (),
        most: int | None = None,
        agnostic: bool | None = None,
        size: int | None = None,
    ) -> list[list[Detection]]:
        """The boxes of each picture, the best first: paths, encoded bytes, Pillow images or uint8 arrays [H, W, 3].

        For example ``detect(["site.jpg"])`` gives ``[[Detection("helmet", 0.93, (31.0, 40.5, 64.2, 80.1))]]``.

        ``confidence``, ``overlap``, ``most`` and ``agnostic`` take the place of what the bundle declares
        (:class:`torchlift.Boxes`); ``classes`` are the names that are wanted, all where there are none. Batches have
        ``size`` rows, by default the batch axis' optimum. Raises InputError for a picture that cannot be read, for a
        class that there is not, and for values that are not usable.
        """
        given = {"confidence": confidence, "overlap": overlap, "most": most, "agnostic": agnostic}
        declared = msgspec.structs.replace(
            self.detector.declared, **{name: value for name, value in given.items() if value is not None}
        )
        wanted = [self._class(name) for name in classes]
        return [found.named(declared.names) for found in self.found(images, declared, wanted, size)]

    @ends_when_closed
    def found(
        self, images: Sequence[ImageSource], declared: Boxes, classes: Sequence[int] = (), size: int | None = None
    ) -> list[Found]:
        """As a call, as arrays."""
        session = self.session(self.component)
        sources = listed(images, "pictures")
        frames = [frame_of(self.detector.picture, s, name=f"picture {i}") for i, s in enumerate(sources)]
        prepared = self.preparer(self.component).prepare({self.detector.image: sources})
        batching = Batching(session, session.signature, size)
        return detected(self.detector, session, prepared, frames, batching, self._loader, declared, classes=classes)

    def _class(self, name: str) -> int:
        if name not in self.names:
            raise InputError(f"there is no class {name!r}", remedy=f"The classes are {', '.join(self.names[:100])}.")
        return self.names.index(name)


def detected(
    detector: Detector,
    session: Session,
    prepared: Prepared,
    frames: Sequence[Frame],
    batching: Batching,
    loader: Loader,
    declared: Boxes,
    *,
    classes: Sequence[int] = (),
    every_class: bool = False,
    stage: Stage | None = None,
) -> list[Found]:
    """The boxes of each prepared picture, in their order. Each run is finished at once, so that its candidates need
    not be kept: YOLOv5 gives 8.6 MB of them for a picture.
    """
    found: list[Found | None] = [None] * len(frames)
    for run, outputs in run_each(session, prepared, batching, loader, stage):
        candidates: np.ndarray = outputs[detector.output]
        for row, picture in zip(run.rows, candidates, strict=False):
            found[row] = found_boxes(declared, picture, frames[row], classes=classes, every_class=every_class)
    return [one for one in found if one is not None]
