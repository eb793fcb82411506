"""The network as published, as a session: what variants are measured against."""

from __future__ import annotations

from torchlift.backends import Session, SessionOptions, module_runtime
from torchlift.families import family
from torchlift.families.base import LoadOptions
from torchlift.manifest import Precision


def open_reference(
    name: str,
    location: str,
    options: LoadOptions,
    component: str,
    session: SessionOptions | None = None,
    *,
    precision: Precision = "fp32",
    compiled: bool = False,
) -> Session:
    """Load a component from its source and run it by PyTorch, on the GPU where torch has one; can be pickled by name
    into another process.
    """
    part = family(name).load(location, options).component(component)
    runtime = module_runtime()
    return runtime.open_module(part.reference, part.signature, session, precision=precision, compiled=compiled)
