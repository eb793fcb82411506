"""The network as published, as a session: what variants are measured against."""

from __future__ import annotations

from torchlift.backends import Session, SessionOptions
from torchlift.families import family
from torchlift.families.base import LoadOptions


def open_reference(
    name: str, location: str, options: LoadOptions, component: str, threads: int = 0, compiled: bool = False
) -> Session:
    """Load a component from its source and run it by PyTorch; can be pickled by name into another process."""
    from torchlift.backends.pytorch import TorchSession

    part = family(name).load(location, options).component(component)
    return TorchSession(part.reference, part.signature, SessionOptions(threads), compiled=compiled)
