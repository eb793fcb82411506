"""Inputs of each component to find ranges on: from a user's data, or where there is none the goldens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torchlift.bundle import Bundle
from torchlift.convert.ranges import Feeds
from torchlift.datasets import TRAIN, ReadOptions, SampleData, Source, splits_of
from torchlift.manifest import Component
from torchlift.pipelines.pictures import KeptPictures
from torchlift.progress import SILENT, Progress
from torchlift.prove.goldens import load_goldens
from torchlift.tasks.calibration import calibration_samples


def train_split(data: Path | SampleData | None, read: ReadOptions, scored: str) -> ReadOptions | None:
    """How to read the split ``train`` of a data set, unless it is not there or is what is scored."""
    if not isinstance(data, Path) or scored == TRAIN:
        return None
    splits = splits_of(data)
    if TRAIN not in splits or not (scored or splits - {TRAIN}):
        return None
    return replace(read, split=TRAIN)


@dataclass(frozen=True)
class Samples:
    """Where samples are from, with a ``key`` that changes with them, and how to get a component's. ``source`` is the
    data set's name, None for the goldens; ``given`` by the user to calibrate on; ``real`` where they are of a data set.
    """

    source: str | None
    key: str
    of: Callable[[Component], Feeds]
    given: bool = False
    real: bool = False


def goldens_as_samples(bundle: Bundle) -> Samples:
    """The goldens' inputs."""

    def feeds(component: Component) -> Feeds:
        return [dict(golden.inputs) for golden in load_goldens(bundle, component).values()]

    return Samples(None, "goldens", feeds)


def data_as_samples(
    bundle: Bundle,
    source: Source,
    read: ReadOptions,
    progress: Progress = SILENT,
    *,
    given: bool = True,
    pictures: KeptPictures | None = None,
) -> Samples:
    """Samples of a data set, prepared as the pipeline prepares them. Raises DataError where it cannot be read."""
    found = calibration_samples(bundle, source, read, progress, pictures)

    def feeds(component: Component) -> Feeds:
        with progress.stage(f"read samples for {component.name}"):
            return [*found.feeds(component.name)]

    return Samples(found.name, found.fingerprint, feeds, given, real=True)
