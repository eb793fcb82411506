"""PyTorch itself, which variants are scored against and measured with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torchlift.backends import Session, SessionOptions, module_runtime
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, StorageError, TorchliftError
from torchlift.evidence import Entrant, Precision
from torchlift.exporter import write_proven_program
from torchlift.families.quiet import libraries_quiet
from torchlift.jobs.source import AnySource, LiveSource, Source
from torchlift.machine import HERE, RunOn
from torchlift.messages import entrant_text
from torchlift.progress import Progress
from torchlift.signature import Signature
from torchlift.timing.latency import Contender


@libraries_quiet()
def reference(source: AnySource, on: RunOn, component: str) -> Session:
    """PyTorch itself as a session."""
    part = source.load().component(component)
    return module_runtime().open_module(part.reference, part.signature, SessionOptions(on))


@dataclass(frozen=True)
class Spooled:
    """Where other processes find a live network: the files of its components' programs, and their signatures.

    ``live`` has the network for a component without a file: it is measured in this process.
    """

    programs: Mapping[str, tuple[Path, Signature]]
    live: LiveSource

    def __reduce__(self) -> tuple[Any, ...]:
        return Spooled, (self.programs, None)  # the network itself does not travel


def elsewhere(source: AnySource, bundle: Bundle, folder: Path, progress: Progress) -> Source | Spooled:
    """What another process opens in the place of a source: a live network's programs, which are proven first."""
    if isinstance(source, Source):
        return source
    programs = {}
    for component in bundle.manifest.components:
        graph = bundle.manifest.graph(component.name, module_runtime().program.name)
        if graph is not None and not graph.failure:
            programs[component.name] = (bundle.model(graph), component.signature)
            continue
        file = folder / f"{component.name}{module_runtime().suffix}"
        try:
            write_proven_program(source.model, component, bundle, file, progress)
        except StorageError:
            raise
        except TorchliftError as error:
            progress.note(f"PyTorch is measured in this process, with more noise: {error.message}")
            continue
        programs[component.name] = (file, component.signature)
    return Spooled(programs, source)


_PEER_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")

PEERS = tuple(
    Entrant(module_runtime().name, precision, compiled, cuda_graph)
    for precision in _PEER_PRECISIONS
    for compiled in (False, True)
    for cuda_graph in (False, True)
)
"""The ways of running the network as published by PyTorch itself. The first, eager in FP32, is what others are measured
against. FP16 and CUDA graphs are for GPUs."""


def peers(
    source: Source | Spooled,
    component: str,
    on: RunOn = HERE,
    *,
    compiled: bool = False,
    cuda_graph: bool = False,
) -> list[Contender]:
    """PyTorch itself as contenders, eager FP32 first, on a GPU in FP16 too; ``compiled`` adds torch.compile,
    ``cuda_graph`` on a GPU the replaying of CUDA graphs.
    """
    runtime = module_runtime()
    on_gpu = runtime.on_gpu()
    graphs = cuda_graph and on_gpu
    apart = isinstance(source, Source) or component in source.programs
    wanted = [
        peer
        for peer in PEERS
        if runtime.supports(peer.precision).ok and (compiled or not peer.compiled) and peer.cuda_graph <= graphs
    ]
    openers = {peer: partial(open_peer, source, component, peer, on) for peer in wanted}
    return [
        Contender(peer, opener, opener if on_gpu and apart else None, apart=apart) for peer, opener in openers.items()
    ]


def open_peer(source: Source | Spooled, component: str, peer: Entrant, on: RunOn, device: int | None = None) -> Session:
    """A peer as a session, on another GPU than that of ``on`` where ``device`` names one; can be pickled by name.

    Raises BackendError for one with CUDA graphs that records none.
    """
    options = SessionOptions(on if device is None else replace(on, device=device), peer.cuda_graph)
    runtime, precision, compiled = module_runtime(), peer.precision, bool(peer.compiled)
    if isinstance(source, Spooled) and component in source.programs:
        session = runtime.open_program(*source.programs[component], options, precision=precision, compiled=compiled)
    else:
        part = (source.live if isinstance(source, Spooled) else source).load().component(component)
        module = part.reference if isinstance(source, Source) else copy.deepcopy(part.reference)
        session = runtime.open_module(module, part.signature, options, precision=precision, compiled=compiled)
    if peer.cuda_graph and not session.records:
        session.close()
        raise BackendError(
            f"{entrant_text(peer)} records none: the model computes the size of an output",
            remedy="Measure without CUDA graphs.",
        )
    return session
