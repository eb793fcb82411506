"""One table of what differs between the supported releases of TensorRT. All other code is the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torchlift.backends.base import CompileOptions
from torchlift.errors import BackendError, BackendUnavailableError


@dataclass(frozen=True)
class Release:
    """The facts of release ``since`` and of all later ones, up to the next entry of the table.

    - ``opset`` is the newest that its parser reads.
    - ``typed``: a network computes in the types that the graph states. Otherwise flags permit types, and it chooses.
    - ``explicit_batch``: a network needs the flag of that name.
    - ``integer_weights``: the parser reads weights that are stored as integers.
    - ``previews`` are features that have to be switched on.
    - ``shared_profiles``: several contexts of an engine may use one profile (8.6 has that as a preview). Otherwise the
      engine is loaded once for each context.
    - ``lacks`` are the fields of CompileOptions that the release does not support.
    """

    since: tuple[int, int]
    opset: int
    typed: bool = True
    explicit_batch: bool = False
    integer_weights: bool = True
    previews: tuple[str, ...] = ()
    shared_profiles: bool = True
    lacks: frozenset[str] = frozenset()


RELEASES = (
    Release(
        (8, 5),
        opset=16,
        typed=False,
        explicit_batch=True,
        integer_weights=False,
        previews=("FASTER_DYNAMIC_SHAPES_0805",),
        shared_profiles=False,
        lacks=frozenset({"version_compatible", "hardware_compatible", "stripped"}),
    ),
    Release(
        (8, 6),
        opset=17,
        typed=False,
        explicit_batch=True,
        integer_weights=False,
        previews=("PROFILE_SHARING_0806",),
        lacks=frozenset({"stripped"}),
    ),
    Release((10, 0), opset=20),
    Release((10, 14), opset=23),
)
"""Oldest first. 8.5 was run. The entries of later releases follow their documentation and bindings."""

FIRST_WITH = {"version_compatible": "8.6", "hardware_compatible": "8.6", "stripped": "10.0"}
"""A field of CompileOptions -> the first release that has it."""

FLAGS: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("FP16",),
    "int8": ("INT8",),
    "int8-fp16": ("INT8", "FP16"),
}
"""Recipe -> the flags that permit its types in a network that is not ``typed``."""


def release_of(version: str) -> Release:
    """The facts of a version such as ``8.5.3.1``. Raises BackendUnavailableError for one that is too old."""
    major, minor = (int(part) for part in version.split(".")[:2])
    found = [release for release in RELEASES if release.since <= (major, minor)]
    if not found:
        first = ".".join(map(str, RELEASES[0].since))
        raise BackendUnavailableError(
            f"TensorRT {version} is too old", remedy=f"Install {first} or later: pip install tensorrt."
        )
    return found[-1]


def require_options(options: CompileOptions, version: str) -> None:
    """Raise BackendError for an option that the release does not support, and for two plug-in libraries of one name.

    All plug-in libraries are copied to one folder, so their names must differ.
    """
    for name in sorted(release_of(version).lacks):
        if getattr(options, name):
            raise BackendError(
                f"TensorRT {version} builds no {name.replace('_', '-')} engines",
                remedy=f"Leave the option out, or install {FIRST_WITH[name]} or later.",
            )
    named: dict[str, Path] = {}
    for library in options.plugins:
        other = named.setdefault(library.name, library)
        if other != library:
            raise BackendError(
                f"the plug-in libraries {other} and {library} share a name, and both go into one folder",
                remedy="Rename one of them.",
            )
