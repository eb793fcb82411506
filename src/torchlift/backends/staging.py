"""Page-locked memory, filled in pieces, so that a GPU reads one while threads fill the next."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from torchlift.machine import usable_cores

PIECE = 1 << 21
"""Bytes of a piece."""

_MOST_THREADS = 4
"""One thread fills page-locked memory more slowly than a GPU reads it, and a few fill it as fast as memory allows."""


def stage(array: np.ndarray, staged: np.ndarray, send: Callable[[slice], object]) -> None:
    """Fill ``staged``, which lies in C order and has the array's shape, with its values in a dtype that may be another.

    Calls ``send`` with each part of ``staged.reshape(-1)`` once it is filled, in order: pieces, or the whole of what is
    no larger or does not lie in C order. When this returns or raises, no thread writes to ``staged`` any more.
    """
    if not array.flags.c_contiguous or staged.nbytes <= PIECE:
        np.copyto(staged, array, casting="unsafe")
        send(slice(0, staged.size))
        return
    source, target, step = array.reshape(-1), staged.reshape(-1), PIECE // staged.itemsize

    def fill(part: slice) -> None:
        np.copyto(target[part], source[part], casting="unsafe")

    parts = [slice(start, min(start + step, target.size)) for start in range(0, target.size, step)]
    filling = [_threads().submit(fill, part) for part in parts]
    try:
        for part, filled in zip(parts, filling, strict=True):
            filled.result()
            send(part)
    finally:
        for filled in filling:
            filled.cancel()
        wait(filling)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_MOST_THREADS, usable_cores()), thread_name_prefix="staging")
