"""The pipeline of a network that enlarges pictures: pictures and a factor in, pictures out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from torchlift.errors import BundleError, SignatureError
from torchlift.pipelines.base import Pipeline, ends_when_closed
from torchlift.pipelines.enlarging import Enlarger
from torchlift.pipelines.prepare import listed
from torchlift.processing.image import ImageSource, pixels_of, size_of


class SuperResolution(Pipeline):
    """A bundle that enlarges pictures. Large ones are run in tiles, whose seams cannot be seen."""

    def _set_up(self) -> None:
        components = self.bundle.manifest.components
        try:
            if len(components) != 1:
                raise SignatureError(f"there are {len(components)} components", remedy="Ship one network.")
            self.enlarger = Enlarger.of(components[0])
        except SignatureError as error:
            raise BundleError(
                f"{self.bundle.path} cannot enlarge pictures: {error.message}", remedy=error.remedy
            ) from error

    def __call__(self, pictures: Sequence[ImageSource], factor: float | None = None) -> list[np.ndarray]:
        """Pictures, ``factor`` times larger: for each uint8 [factor * H, factor * W, 3].

        For example ``sr(["face.png"], factor=3)``. The factor may be left out where the network has only one. All
        pictures are in memory together; :meth:`each` gives one after the other. Raises InputError.
        """
        return [*self.each(pictures, factor)]

    def each(self, pictures: Sequence[ImageSource], factor: float | None = None) -> Iterator[np.ndarray]:
        """The same, one picture after the other. All of them are looked at, but not decoded, before the first."""
        times = self.enlarger.checked(factor)
        sources = listed(pictures, "pictures")
        for position, source in enumerate(sources):
            name = f"picture {position}"
            height, width = size_of(self.enlarger.declared, source, name=name)
            self.enlarger.require_memory(height, width, times, name)
            self.enlarger.tile(height, width, times)
        return (self._enlarged(source, times, f"picture {i}") for i, source in enumerate(sources))

    @ends_when_closed
    def _enlarged(self, source: ImageSource, factor: float, name: str) -> np.ndarray:
        session = self.session(self.enlarger.component.name)
        return self.enlarger.enlarged(session, pixels_of(self.enlarger.declared, source, name=name), factor)
