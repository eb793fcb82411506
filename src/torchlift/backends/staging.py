"""Fills page-locked memory in pieces, so that a GPU can copy one piece while threads fill the next."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from torchlift.machine import usable_cores

PIECE = 1 << 21
"""Bytes of one piece (2 MiB)."""

_MOST_THREADS = 4
"""One thread fills memory more slowly than a GPU reads it. A few threads already reach the speed of the memory."""


def stage(array: np.ndarray, staged: np.ndarray, send: Callable[[slice], object]) -> None:
    """Copy the values of ``array`` to ``staged``, and call ``send`` with each piece of it that is filled.

    ``staged`` lies in C order and has the array's shape; its dtype may be another. A piece is a slice of
    ``staged.reshape(-1)``; pieces come in order. An array of at most one piece, or one that does not lie in C order, is
    sent as a whole. When this returns or raises, no thread writes to ``staged`` any more.
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
