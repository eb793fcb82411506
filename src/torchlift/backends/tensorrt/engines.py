"""Engines in memory. Each is loaded from a file with the right checksum, and is given to execution contexts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchlift.backends.tensorrt.messages import logger, start
from torchlift.backends.tensorrt.record import EngineRecord, read_engine
from torchlift.errors import EngineError


class Engines:
    """The engine of one file, loaded as often as its contexts need it.

    TensorRT 8.5 lets only one context of an engine use a profile. There (``shared`` is False) the engine is loaded once
    more for each further context. At each load the file is compared with its checksum; EngineError is raised where it
    changed.

    ``finish`` is called with each engine that was loaded, for example to give it weights. All contexts must be gone
    before :meth:`close`.
    """

    def __init__(
        self, file: Path, record: EngineRecord, *, shared: bool, finish: Callable[[Any], None] | None = None
    ) -> None:
        import tensorrt as trt

        self._file, self._record, self._shared, self._finish = file, record, shared, finish
        self._runtime = start(trt.Runtime)
        if record.version_compatible:
            self._runtime.engine_host_code_allowed = True
        self._loaded = [self._load()]
        self._taken: list[set[int]] = [set()]

    def take(self, profile: int) -> Any:
        """The engine to make one more context of a profile with. It may have to be loaded for that."""
        if self._shared:
            return self._loaded[0]
        for engine, taken in zip(self._loaded, self._taken, strict=True):
            if profile not in taken:
                taken.add(profile)
                return engine
        self._loaded.append(self._load())
        self._taken.append({profile})
        return self._loaded[-1]

    def give_back(self, engine: Any, profile: int) -> None:
        """Note that a context of the engine no longer uses the profile."""
        for known, taken in zip(self._loaded, self._taken, strict=True):
            if known is engine:
                taken.discard(profile)

    def _load(self) -> Any:
        engine = self._runtime.deserialize_cuda_engine(read_engine(self._file, self._record))
        if engine is None:
            raise EngineError(
                f"{self._file.name} cannot be loaded: {logger().last()}", remedy="Build it again: torchlift build."
            )
        if self._finish is not None:
            self._finish(engine)
        return engine

    def close(self) -> None:
        self._loaded.clear()
        self._taken.clear()
        self._runtime = None
