"""Streams of a GPU, how long their work takes, and recordings of it (CUDA graphs)."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, Protocol, TypeVar

from torchlift.backends.cuda.driver import check, on_device, runtime
from torchlift.errors import BackendError, TorchliftError


class _Handle:
    """A CUDA object with a handle. It is destroyed by :meth:`close`, or when nothing refers to it any more."""

    def __init__(self, handle: int, destroy: str) -> None:
        self.handle = handle
        self._end = weakref.finalize(self, _destroy, getattr(runtime(), destroy), handle)
        self._end.atexit = False

    def close(self) -> None:
        """Destroy the object. Work that it has already started is still done. The object may not be used afterwards."""
        self._end()
        self.handle = 0


def _destroy(work: Callable[[int], tuple[Any, ...]], handle: int) -> None:
    """Destroy a handle. An error of the device is ignored here: it was raised where it occurred."""
    with contextlib.suppress(BackendError):
        check(work(handle))


class Stream(_Handle):
    """A queue of work on a GPU. ``handle`` is its cudaStream_t.

    It does not wait for CUDA's default stream, and the default stream does not wait for it.
    """

    def __init__(self, device: int = 0) -> None:
        cuda = runtime()
        with on_device(device):
            stream = check(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
        super().__init__(int(stream), "cudaStreamDestroy")
        self.device = device

    def synchronize(self) -> None:
        """Wait until all its work is done. Raises BackendError for an error in that work."""
        check(runtime().cudaStreamSynchronize(self.handle))

    def drain(self) -> None:
        """Wait until all its work is done or has failed. A failure is not raised here. A closed stream has no work."""
        if self.handle:
            with contextlib.suppress(BackendError):
                self.synchronize()

    def close(self) -> None:
        """Wait for its work, and destroy it."""
        self.drain()
        super().close()


class Event(_Handle):
    """A point in the work of a stream. With ``timing``, the time between two events can be read."""

    def __init__(self, device: int = 0, *, timing: bool = False) -> None:
        cuda = runtime()
        flags = cuda.cudaEventDefault if timing else cuda.cudaEventDisableTiming
        with on_device(device):
            event = check(cuda.cudaEventCreateWithFlags(flags))
        super().__init__(int(event), "cudaEventDestroy")

    def record(self, stream: int) -> None:
        """Mark the end of the work that a stream (given by its handle) has been given so far."""
        check(runtime().cudaEventRecord(self.handle, stream))

    def since(self, start: Event) -> float:
        """Wait until the stream reaches this point; returns the seconds since ``start``, by the GPU's clock."""
        check(runtime().cudaEventSynchronize(self.handle))
        return float(check(runtime().cudaEventElapsedTime(start.handle, self.handle))) / 1000


def follow(after: int, before: int, device: int) -> None:
    """Make one stream wait for another: work given to ``after`` from now on waits for all work that ``before`` has.

    Both are handles of streams. ``device`` is the GPU of ``before``. The host does not wait.
    """
    with on_device(device):
        event = Event(device)
        event.record(before)
        check(runtime().cudaStreamWaitEvent(after, event.handle, runtime().cudaEventWaitDefault))
        event.close()


class Timer:
    """Measures how long work of a stream takes, by the GPU's own clock, to about half a microsecond."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._first, self._last = (Event(stream.device, timing=True) for _ in range(2))

    def start(self) -> None:
        self._first.record(self._stream.handle)

    def stop(self) -> float:
        """Wait for the work that the stream was given since :meth:`start`; returns the seconds that it took."""
        self._last.record(self._stream.handle)
        return self._last.since(self._first)

    def close(self) -> None:
        self._first.close()
        self._last.close()


class Recording(_Handle):
    """A CUDA graph: work that was recorded once and is launched as a whole.

    It reads and writes the addresses that it was recorded with.
    """

    def launch(self, stream: Stream) -> None:
        """Give the work to a stream. Raises BackendError where that fails, also for a closed recording."""
        check(runtime().cudaGraphLaunch(self.handle, stream.handle))


def capture(stream: Stream, work: Callable[[], None]) -> Recording:
    """Record the work that ``work`` gives to the stream. The GPU does not do that work yet.

    Run ``work`` once before, so that it has allocated its memory: while it is recorded it may not allocate, free or
    synchronize. Other threads may use the GPU meanwhile.

    Raises DeviceMemoryError where the GPU has no room, and BackendError where ``work`` fails or CUDA cannot record it.
    The stream can be used again afterwards.
    """
    try:
        with _no_collection():
            return Recording(_record(stream, work), "cudaGraphExecDestroy")
    except Exception as error:
        kind = type(error) if isinstance(error, BackendError) else BackendError
        said = error.message if isinstance(error, TorchliftError) else f"{type(error).__name__}: {error}"
        raise kind(
            f"no CUDA graph could be recorded: {said}", remedy="Open the session without CUDA graphs."
        ) from error


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Switch the garbage collector off. It might free memory of the GPU, and that makes a recording fail."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _record(stream: Stream, work: Callable[[], None]) -> int:
    cuda = runtime()
    check(cuda.cudaStreamBeginCapture(stream.handle, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
    try:
        work()
    except BaseException:
        error, unfinished = cuda.cudaStreamEndCapture(stream.handle)
        if int(error):
            cuda.cudaGetLastError()
        else:
            cuda.cudaGraphDestroy(unfinished)
        raise
    template = check(cuda.cudaStreamEndCapture(stream.handle))
    try:
        return int(check(cuda.cudaGraphInstantiate(template, 0)))
    finally:
        cuda.cudaGraphDestroy(template)


class _Closable(Protocol):
    def close(self) -> None: ...


_R = TypeVar("_R", bound=_Closable)


class RecordingCache(Generic[_R]):
    """Keeps the ``limit`` recordings that were used last, each by a key such as its shapes.

    A recording that is dropped is closed.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise BackendError(
                f"a cache of {limit} CUDA graphs holds none", remedy="Choose 1 or more, or do without CUDA graphs."
            )
        self._limit = limit
        self._recordings: OrderedDict[Hashable, _R] = OrderedDict()

    def get(self, key: Hashable) -> _R | None:
        if key in self._recordings:
            self._recordings.move_to_end(key)
        return self._recordings.get(key)

    def put(self, key: Hashable, recording: _R) -> None:
        """Keep a recording.

        It replaces one of the same key; where the cache is full, the least recently used one goes.
        """
        replaced = self._recordings.pop(key, None)
        if replaced is not None and replaced is not recording:
            replaced.close()
        self.make_room()
        self._recordings[key] = recording

    def make_room(self) -> None:
        """Drop the least recently used recordings until one more has a place.

        Call it before a new one is made: then never more than ``limit`` exist at a time.
        """
        while len(self._recordings) >= self._limit:
            self._recordings.popitem(last=False)[1].close()

    def clear(self) -> None:
        """Drop all recordings, for example when a buffer that they use has moved."""
        while self._recordings:
            self._recordings.popitem()[1].close()
