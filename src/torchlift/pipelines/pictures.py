"""Decoded pictures of a data set, kept so that each is decoded once, however many variants are asked about it."""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

import numpy as np

MEMORY = 1 << 30
"""Bytes, 1 GiB: pixels that are kept in memory. That is 7,100 pictures of 224 x 224."""

SCRATCH = 16 << 30
"""Bytes, 16 GiB: pixels beyond those in memory are kept in a temporary file, at most so many and at most half of what
its disk has free. What fits into neither is decoded again each time."""


class KeptPictures:
    """The pixels of pictures, uint8 [H, W, 3], by a key that tells both the file's content and how it was prepared.

    The memory and the temporary file are given back when it is closed, at the end of ``with``, or when nothing holds it
    any more. Threads may share it.
    """

    def __init__(self, memory: int = MEMORY, scratch: int = SCRATCH) -> None:
        self._memory = memory
        self._scratch = scratch
        self._pixels: dict[bytes, np.ndarray] = {}
        self._places: dict[bytes, tuple[int, tuple[int, ...]]] = {}
        self._file: int | None = None
        self._end = 0
        self._close_file: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def get(self, key: bytes) -> np.ndarray | None:
        """The pixels under a key; None where they were not kept."""
        found = self._pixels.get(key)
        if found is not None or key not in self._places:
            return found
        offset, shape = self._places[key]
        assert self._file is not None
        data = os.pread(self._file, int(np.prod(shape)), offset)
        return np.frombuffer(data, np.uint8).reshape(shape)

    def put(self, key: bytes, pixels: np.ndarray) -> None:
        """Keep pixels where there is room for them."""
        with self._lock:
            if key in self._pixels or key in self._places:
                return
            if pixels.nbytes <= self._memory:
                self._memory -= pixels.nbytes
                self._pixels[key] = np.ascontiguousarray(pixels)
            else:
                self._write(key, pixels)

    def _write(self, key: bytes, pixels: np.ndarray) -> None:
        if self._file is None:
            self._file, name = tempfile.mkstemp(prefix="torchlift-pictures-")
            self._close_file = weakref.finalize(self, os.close, self._file)
            os.unlink(name)  # noqa: PTH108
            disk = os.statvfs(self._file)
            self._scratch = min(self._scratch, disk.f_bavail * disk.f_frsize // 2)
        if pixels.nbytes > self._scratch:
            return
        try:
            written = os.pwrite(self._file, np.ascontiguousarray(pixels).data, self._end)
        except OSError:  # the disk is full after all
            written = 0
        if written < pixels.nbytes:
            self._scratch = 0
            return
        self._places[key] = (self._end, pixels.shape)
        self._end += pixels.nbytes
        self._scratch -= pixels.nbytes

    def close(self) -> None:
        """Forget all pictures."""
        with self._lock:
            self._pixels.clear()
            self._places.clear()
            self._close_file()
            self._file = None

    def __enter__(self) -> KeptPictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
