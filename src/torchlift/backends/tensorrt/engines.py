"""Engines in memory: loaded from a file that is what was built, and handed out to execution contexts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchlift.backends.tensorrt.messages import logger, start
from torchlift.backends.tensorrt.record import EngineRecord, read_engine
from torchlift.errors import EngineError


class Engines:
    """The engine of a file with its record, loaded again for a context where the release lets only one use a profile
    (8.5): each time it must be what was built, and EngineError is raised where it no longer is.

    ``finish`` is done to each as it is loaded, such as to give it weights. Contexts must be gone before :meth:`close`.
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
        """An engine for one more context of a profile."""
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
        """A context of the engine is gone."""
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
