"""The job that measures a bundle's variants side by side, and chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torchlift.bundle import Bundle
from torchlift.machine import HERE, RunOn
from torchlift.manifest import Manifest
from torchlift.progress import SILENT, Progress
from torchlift.stages.bench import BenchOptions, bench_component, check_sizes
from torchlift.stages.choose import choose_all
from torchlift.stages.score import Scorer
from torchlift.staging import writing
from torchlift.timing.latency import Contender

Peers = Callable[[str], Sequence[Contender]]
"""What a component's variants are measured against, by the component's name."""


def no_peers(component: str) -> Sequence[Contender]:
    """Measure variants against each other only."""
    return ()


def bench_and_choose(
    bundle: Bundle,
    peers: Peers,
    options: BenchOptions,
    progress: Progress = SILENT,
    *,
    on: RunOn = HERE,
    scorer: Scorer | None = None,
    again: bool = False,
) -> None:
    """Measure every component's variants with its peers, and choose. The measurements and choices of before stay where
    a component cannot be measured, or none of its variants can serve.
    """
    for component in bundle.manifest.components:
        check_sizes(component.signature, options)
    with bundle.together():
        for component in bundle.manifest.components:
            bench_component(bundle, component, peers(component.name), options, progress, on=on, again=again)
        choose_all(bundle, scorer)


def bench_bundle(
    path: Path,
    options: BenchOptions | None = None,
    peers: Peers = no_peers,
    progress: Progress = SILENT,
    *,
    on: RunOn = HERE,
) -> Manifest:
    """Measure a bundle's variants again, and choose again by the bundle's gate."""
    with writing(path, progress) as bundle:
        bench_and_choose(bundle, peers, options or BenchOptions(), progress, on=on, again=True)
    return bundle.manifest
