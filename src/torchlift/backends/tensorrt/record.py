"""The record of an engine: its graph, its release of TensorRT and its GPU. They are compared before it is loaded."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torchlift.backends.tensorrt.profiles import as_option
from torchlift.checksums import sha256
from torchlift.errors import EngineError
from torchlift.machine import Gpu

ENGINE = "model.engine"
RECORD = "engine.json"

_AMPERE = (8, 0)
"""Hardware-compatible engines run on GPUs of this compute capability and later."""

_NEXT = {(8, 10), (10, 11)}
"""(8, 10): the runtime of release 10 still runs version-compatible engines of release 8."""


@dataclass(frozen=True)
class EngineRecord:
    """What an engine was built from, and for what.

    ``engine`` is the SHA-256 of the engine. ``plugins`` maps the names of the libraries beside it to theirs. ``source``
    is the path of the ONNX file, from the engine's folder, and ``graph`` its :func:`graph_digest`. A ``stripped``
    engine takes its weights from that file when it is opened. ``profiles`` are ranges (min, opt, max) by axis.
    ``workspace`` is the limit of scratch memory that was set, in bytes.
    """

    tensorrt: str
    gpu: str
    capability: str
    driver: str
    recipe: str
    source: str
    graph: str
    engine: str
    profiles: tuple[dict[str, tuple[int, int, int]], ...]
    plugins: dict[str, str] = field(default_factory=dict)
    workspace: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    stripped: bool = False

    def write(self, folder: Path) -> None:
        import msgspec

        (folder / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2))

    def misfit(self, version: str, gpu: Gpu) -> str:
        """Why a TensorRT of ``version`` cannot load the engine on ``gpu``, in words; "" where it can."""
        if self.tensorrt != version and not (self.version_compatible and _carried_on(self.tensorrt, version)):
            return f"it was built by TensorRT {self.tensorrt}, and {version} is here"
        another = (self.gpu, self.capability) != (gpu.name, gpu.capability)
        if another and not (self.hardware_compatible and _numbers(gpu.capability) >= _AMPERE):
            return f"it was built on an {self.gpu} ({self.capability}), and an {gpu.name} ({gpu.capability}) is here"
        compatible = self.version_compatible or self.hardware_compatible
        if self.driver != gpu.driver and not compatible:
            return f"it was built with driver {self.driver}, and {gpu.driver} is here"
        return ""


def read_record(engine: Path, version: str, gpu: Gpu) -> EngineRecord:
    """Read the record of an engine, and check that the engine fits this machine, its plug-ins and its graph.

    Raises EngineError where it does not, with the command that builds it again.
    """
    import msgspec

    file = engine.with_name(RECORD)
    try:
        record = msgspec.json.decode(file.read_bytes(), type=EngineRecord)
    except (OSError, msgspec.MsgspecError) as error:
        raise EngineError(f"{file} cannot be read: {error}", remedy=_rebuild(engine)) from error
    if not re.fullmatch(r"\.\./[^/]+/[^/]+", record.source) or record.source.startswith("../../"):
        raise EngineError(f"{file} names the graph {record.source!r}, outside the component", remedy=_rebuild(engine))
    why = record.misfit(version, gpu)
    if why:
        raise EngineError(f"{engine} does not fit here: {why}", remedy=_rebuild(engine, record))
    for name, digest in record.plugins.items():
        plugin = engine.with_name(name)
        if not plugin.is_file() or sha256(plugin) != digest:
            raise _changed(plugin, engine, record)
    source = source_of(engine, record)
    if not source.is_file():
        raise EngineError(f"{engine} was built from {source}, which is gone", remedy=_rebuild(engine, record))
    if graph_digest(source) != record.graph:
        raise EngineError(
            f"{engine} was built from another graph than {source} is now", remedy=_rebuild(engine, record)
        )
    return record


def source_of(engine: Path, record: EngineRecord) -> Path:
    """The ONNX file that an engine was built from."""
    return Path(os.path.normpath(engine.parent / record.source))


def graph_digest(source: Path) -> str:
    """One SHA-256 for an ONNX file and its weights. Weights are the files beside it whose names begin with its name."""
    digest = hashlib.sha256()
    for file in sorted(source.parent.iterdir()):
        if file.name.startswith(source.name):
            digest.update(f"{file.name} {sha256(file)}\n".encode())
    return digest.hexdigest()


def component_of(engine: Path) -> str:
    """The name of the component that an engine belongs to, from its path in a bundle."""
    return engine.absolute().parent.parent.name


def read_engine(engine: Path, record: EngineRecord) -> bytes:
    """The bytes of an engine. Raises EngineError where the file is gone or is not what was built."""
    if not engine.is_file() or hashlib.sha256(data := engine.read_bytes()).hexdigest() != record.engine:
        raise _changed(engine, engine, record)
    return data


def _changed(file: Path, engine: Path, record: EngineRecord) -> EngineError:
    return EngineError(f"{file} is not what was built: it was cut off or changed", remedy=_rebuild(engine, record))


def _carried_on(built: str, here: str) -> bool:
    """Whether the later release ``here`` runs version-compatible engines of the release ``built``."""
    majors = _numbers(built)[0], _numbers(here)[0]
    return _numbers(built) < _numbers(here) and (majors[0] == majors[1] or majors in _NEXT)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _rebuild(engine: Path, record: EngineRecord | None = None) -> str:
    """The command that builds an engine again, with the options that it was built with.

    Plug-in libraries are named without a folder. The copies in the bundle are removed with the engine that is replaced,
    so the user must give the originals.
    """
    folder = engine.absolute().parent
    command = f"Build it here: torchlift build {folder.parents[1]} `backends=tensorrt`"
    if record is None:
        return f"{command}."
    given = " ".join(_options(record, component_of(engine)))
    if record.plugins:
        given += f"; give your own copy of {', '.join(record.plugins)}"
    return f"{command} `precisions={record.recipe}`." + (f" It was built with {given}." if given else "")


def _options(record: EngineRecord, component: str) -> Iterator[str]:
    """The options that an engine was built with, as ``torchlift build`` takes them."""
    yield from (as_option(ranges, component) for ranges in filter(None, record.profiles))
    if record.workspace is not None:
        yield f"`workspace={-(-record.workspace >> 20)}`"
    yield from (f"`plugins={name}`" for name in record.plugins)
    flags = {
        "`version_compatible=`": record.version_compatible,
        "`hardware_compatible=`": record.hardware_compatible,
        "`stripped=`": record.stripped,
    }
    yield from (flag for flag, given in flags.items() if given)
