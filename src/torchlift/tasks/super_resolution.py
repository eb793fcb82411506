"""Super-resolution: how near enlarged pictures are to the true ones, in dB and by structural similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from torchlift.backends import Session
from torchlift.datasets import ImageData, PicturePairs
from torchlift.declare.answers import Picture
from torchlift.errors import DataError, SignatureError
from torchlift.manifest import Manifest
from torchlift.pipelines.enlarging import Enlarger
from torchlift.pipelines.run import Loader
from torchlift.progress import Progress, Stage
from torchlift.tasks.base import Answers, Metric, Misfit, Task
from torchlift.tasks.enlarged import Scene, crops, scenes_of
from torchlift.tasks.fidelity import luma, psnr, ssim
from torchlift.tasks.samples import Asked, facts

SSIM = "SSIM"
"""The unit of structural similarity: 1 where pictures are the same."""

_NAMES = {"psnr": "dB", "psnr-y": "dB", "ssim": SSIM, "ssim-y": SSIM}


class SuperResolutionTask(Task):
    """psnr (dB) and ssim of red, green and blue, psnr-y and ssim-y of the brightness. As many pixels as the factor says
    are left out along each side.

    A picture counts once, by the mean over the factors that it is enlarged by. ``psnr@x3`` is of the factor 3 alone.
    """

    name: ClassVar[str] = "super-resolution"
    primary = "psnr"
    reads: ClassVar[tuple[type, ...]] = (ImageData, PicturePairs)

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models with one component, which gives a picture."""
        answers = [answer for component in manifest.components for answer in component.answers.values()]
        if len(manifest.components) == 1 and any(isinstance(answer, Picture) for answer in answers):
            return None
        return Misfit("pictures without labels, and the model gives no picture", "Declare Picture for its output.")

    @classmethod
    def open(cls, asked: Asked, data: ImageData | PicturePairs, progress: Progress) -> SuperResolutionTask:
        """Raises DataError where no picture can be used, or where the model takes more than pictures and a factor."""
        return cls(asked, data, progress)

    def __init__(self, asked: Asked, data: ImageData | PicturePairs, progress: Progress) -> None:
        (component,) = asked.manifest.components
        try:
            self._enlarger = Enlarger.of(component)
        except SignatureError as error:
            raise DataError(f"{data.name} cannot be scored: {error.message}", remedy=error.remedy) from error
        self._scenes = scenes_of(asked, self._enlarger, data, progress)
        self.components = (component.name,)
        self.samples = {component.name: crops(self._enlarger, self._scenes)}
        self._factors = sorted({factor for scene in self._scenes for factor in scene.factors})
        count = len(self._scenes)
        identity = [[*scene.identity, *scene.factors] for scene in self._scenes]
        counts = {"images": count}
        every = all(len(scene.factors) == len(self._factors) for scene in self._scenes)
        single = [f"{name}@x{factor}" for name in ("psnr", "psnr-y") for factor in self._factors] if every else []
        metrics = _NAMES | dict.fromkeys(single, "dB")
        super().__init__(
            facts(data.name, self.name, counts, [data.kind, identity], data.skips),
            {Metric(name, unit=unit): (count, "images") for name, unit in metrics.items()},
        )

    def ask(self, component: str, session: Session, loader: Loader, stage: Stage | None = None) -> Answers:
        """How near each picture is: metric -> float64 [images]. Pictures are enlarged one at a time, and not kept."""
        found: dict[str, list[float]] = {name: [] for name in self.metrics}
        for scene in self._scenes:
            for name, value in self._measured(scene, session).items():
                found[name].append(value)
            if stage is not None:
                stage.advance()
        return {name: np.array(values) for name, values in found.items()}

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        found = answers[self.components[0]]
        return {name: np.asarray(found[name]) for name in self.metrics}

    def _measured(self, scene: Scene, session: Session) -> dict[str, float]:
        """The metrics of one picture."""
        of: dict[str, list[float]] = {name: [] for name in _NAMES}
        for factor in scene.factors:
            enlarged = self._enlarger.enlarged(session, scene.small(factor), factor)
            inner = (slice(factor, -factor), slice(factor, -factor))
            ours, true = enlarged[inner], scene.true()[inner]
            ours_y, true_y = luma(ours), luma(true)
            of["psnr"].append(psnr(ours, true))
            of["psnr-y"].append(psnr(ours_y, true_y))
            of["ssim"].append(ssim(ours, true))
            of["ssim-y"].append(ssim(ours_y, true_y))
        found = {name: float(np.mean(values)) for name, values in of.items()}
        for place, factor in enumerate(scene.factors):
            for name in ("psnr", "psnr-y"):
                if f"{name}@x{factor}" in self.metrics:
                    found[f"{name}@x{factor}"] = of[name][place]
        return found
