"""Streams of a GPU, the time that work on them takes, and CUDA graphs recorded from them."""

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
    """Something of CUDA's with a handle, destroyed by :meth:`close` or when nothing refers to it."""

    def __init__(self, handle: int, destroy: str) -> None:
        self.handle = handle
        self._end = weakref.finalize(self, _destroy, getattr(runtime(), destroy), handle)
        self._end.atexit = False

    def close(self) -> None:
        """Destroy it; work that is under way is still done. It may not be used after."""
        self._end()
        self.handle = 0


def _destroy(work: Callable[[int], tuple[Any, ...]], handle: int) -> None:
    """Fails in silence after an error that the device does not recover from: that was raised where it occurred."""
    with contextlib.suppress(BackendError):
        check(work(handle))


class Stream(_Handle):
    """A stream of a GPU that does not wait for the default stream, nor that for it. ``handle`` is its cudaStream_t."""

    def __init__(self, device: int = 0) -> None:
        cuda = runtime()
        with on_device(device):
            stream = check(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
        super().__init__(int(stream), "cudaStreamDestroy")
        self.device = device

    def synchronize(self) -> None:
        """Wait until its work is done. Raises BackendError for an error in that work."""
        check(runtime().cudaStreamSynchronize(self.handle))

    def drain(self) -> None:
        """Wait until its work is done or has failed, which is not raised here; one that was closed has none."""
        if self.handle:
            with contextlib.suppress(BackendError):
                self.synchronize()

    def close(self) -> None:
        """Drain and destroy it."""
        self.drain()
        super().close()


class Event(_Handle):
    """A point in a stream's work; with ``timing`` the time between two can be told."""

    def __init__(self, device: int = 0, *, timing: bool = False) -> None:
        cuda = runtime()
        flags = cuda.cudaEventDefault if timing else cuda.cudaEventDisableTiming
        with on_device(device):
            event = check(cuda.cudaEventCreateWithFlags(flags))
        super().__init__(int(event), "cudaEventDestroy")

    def record(self, stream: int) -> None:
        """Be the point that a stream, given by its handle, has been told to work up to so far."""
        check(runtime().cudaEventRecord(self.handle, stream))

    def since(self, start: Event) -> float:
        """Wait until this point is reached; returns the seconds since ``start``, by the GPU's clock."""
        check(runtime().cudaEventSynchronize(self.handle))
        return float(check(runtime().cudaEventElapsedTime(start.handle, self.handle))) / 1000


def follow(after: int, before: int, device: int) -> None:
    """Let what the stream ``after`` is told from now wait for what ``before`` was told so far; handles of streams.

    The host does not wait. ``device`` is that of ``before``.
    """
    with on_device(device):
        event = Event(device)
        event.record(before)
        check(runtime().cudaStreamWaitEvent(after, event.handle, runtime().cudaEventWaitDefault))
        event.close()


class Timer:
    """How long a stream's work takes, by the GPU's own clock, to about half a microsecond."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._first, self._last = (Event(stream.device, timing=True) for _ in range(2))

    def start(self) -> None:
        self._first.record(self._stream.handle)

    def stop(self) -> float:
        """Wait for the work that the stream was told since :meth:`start`; returns the seconds that it took."""
        self._last.record(self._stream.handle)
        return self._last.since(self._first)

    def close(self) -> None:
        self._first.close()
        self._last.close()


class Graph(_Handle):
    """Work that was recorded once and is launched as a whole. It reads and writes the addresses that it was recorded
    with.
    """

    def launch(self, stream: Stream) -> None:
        """Let the stream do the work. Raises BackendError, also for a graph that was closed."""
        check(runtime().cudaGraphLaunch(self.handle, stream.handle))


def capture(stream: Stream, work: Callable[[], None]) -> Graph:
    """Record what ``work`` tells the stream, without doing it. Run ``work`` once before, so that what it allocates at
    first is there.

    Other threads may use the GPU meanwhile; ``work`` may not allocate, free or synchronize. Raises BackendError where
    it fails or CUDA cannot record it, DeviceMemoryError where there is no room; the stream can be used after.
    """
    try:
        with _no_collection():
            return Graph(_record(stream, work), "cudaGraphExecDestroy")
    except Exception as error:
        kind = type(error) if isinstance(error, BackendError) else BackendError
        said = error.message if isinstance(error, TorchliftError) else f"{type(error).__name__}: {error}"
        raise kind(
            f"no CUDA graph could be recorded: {said}", remedy="Open the session without CUDA graphs."
        ) from error


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from freeing memory of the GPU in this thread, which spoils what is being recorded."""
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


_G = TypeVar("_G", bound=_Closable)


class GraphCache(Generic[_G]):
    """The graphs of the last ``limit`` keys that were used, for example shapes; whatever is dropped is closed."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise BackendError(
                f"a cache of {limit} CUDA graphs holds none", remedy="Choose 1 or more, or do without CUDA graphs."
            )
        self._limit = limit
        self._graphs: OrderedDict[Hashable, _G] = OrderedDict()

    def get(self, key: Hashable) -> _G | None:
        if key in self._graphs:
            self._graphs.move_to_end(key)
        return self._graphs.get(key)

    def put(self, key: Hashable, graph: _G) -> None:
        """Keep a graph; the one that it replaces and the one that was not used for longest go."""
        replaced = self._graphs.pop(key, None)
        if replaced is not None and replaced is not graph:
            replaced.close()
        self.make_room()
        self._graphs[key] = graph

    def make_room(self) -> None:
        """Drop the one that was not used for longest where one more has no place: called before that one is made, never
        more than ``limit`` exist.
        """
        while len(self._graphs) >= self._limit:
            self._graphs.popitem(last=False)[1].close()

    def clear(self) -> None:
        """Drop all, as when a buffer that they use has moved."""
        while self._graphs:
            self._graphs.popitem()[1].close()
