"""Where tokens lie: windows, shifted windows, pairs within a window, and groups of four that are merged. In numpy.

A map of ``side`` x ``side`` tokens is numbered row by row. All of this follows from sizes, so no checkpoint stores it
that was written by timm or transformers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def pair_index(window: int) -> Indices:
    """The row in a table of (2 * window - 1)^2 relative positions, for each pair of tokens: [tokens, tokens]."""
    row, column = np.divmod(np.arange(window**2), window)
    rows, columns = row[:, None] - row + window - 1, column[:, None] - column + window - 1
    return np.asarray(rows * (2 * window - 1) + columns, np.int64)


def window_order(side: int, window: int, shift: int) -> Indices:
    """The tokens of a map, window after window: [side * side]. Shifted windows wrap around at the borders."""
    grid = np.roll(np.arange(side**2, dtype=np.int64).reshape(side, side), (-shift, -shift), (0, 1))
    count = side // window
    return np.ascontiguousarray(grid.reshape(count, window, count, window).transpose(0, 2, 1, 3)).reshape(-1)


def apart(side: int, window: int, shift: int) -> npt.NDArray[np.bool_]:
    """Which pairs share a window, but only since it wraps around: [windows, tokens, tokens]."""
    place = np.arange(side)
    region = (place >= side - window).astype(np.int64) + (place >= side - shift)
    count = side // window
    regions = (3 * region[:, None] + region).reshape(count, window, count, window)
    flat = regions.transpose(0, 2, 1, 3).reshape(count**2, window**2)
    return np.asarray(flat[:, :, None] != flat[:, None, :])


def merge_order(side: int, window: int) -> Indices:
    """The tokens of a map, four by four as they are merged: [side * side].

    The merged tokens follow each other window after window, as in ``window_order(side // 2, window, 0)``. The four of
    one are upper left, lower left, upper right, lower right.
    """
    row, column = np.divmod(window_order(side // 2, window, 0), side // 2)
    four = [(2 * row + r) * side + 2 * column + c for c in (0, 1) for r in (0, 1)]
    return np.ascontiguousarray(np.stack(four, axis=1)).reshape(-1)


def places(order: Indices) -> Indices:
    """The inverse of an order: where each token stands in it."""
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse
