"""Opens the published network as a session, so that variants can be compared with it."""

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
    """Load a component from its source, and open it by PyTorch, on a GPU where torch has one.

    A contender's process can call it, since it and its arguments can be pickled.
    """
    part = family(name).load(location, options).component(component)
    runtime = module_runtime()
    return runtime.open_module(part.reference, part.signature, session, precision=precision, compiled=compiled)
