"""Shrinks pictures as MATLAB's imresize does, which data sets of super-resolution are made with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

A = -0.5
"""The parameter of the cubic kernel (Keys, 1981)."""


def imresize(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, C] as uint8 [height, width, C]: bicubic, the kernel widened where it shrinks, mirrored at the edges.

    As in MATLAB, the side that shrinks more is done first, in floating point, and the result is rounded to bytes once.
    """
    values = pixels.astype(np.float64)
    sides = sorted(((height / pixels.shape[0], 0, height), (width / pixels.shape[1], 1, width)))
    for _, axis, size in sides:
        values = _resized(values, axis, size)
    return np.floor(values + 0.5).clip(0, 255).astype(np.uint8)


def _resized(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    weights, places = _contributions(values.shape[axis], size)
    moved = np.moveaxis(values, axis, 0)
    out = np.zeros((size, *moved.shape[1:]))
    for tap in range(weights.shape[1]):  # one tap at a time: memory stays that of two pictures
        out += weights[:, tap, None, None] * moved[places[:, tap]]
    return np.moveaxis(out, 0, axis)


def _contributions(taken: int, given: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of the result, the weights of the pixels that it is made of, and their places: [given, taps]."""
    scale = given / taken
    widened = min(scale, 1.0)
    centres = (np.arange(given) + 0.5) / scale - 0.5
    reach = 4 / widened
    first = np.floor(centres - reach / 2)
    places = first[:, None] + np.arange(int(np.ceil(reach)) + 2)
    weights = _cubic((centres[:, None] - places) * widened)
    weights /= weights.sum(axis=1, keepdims=True)
    mirror = np.concatenate([np.arange(taken), np.arange(taken)[::-1]])
    return weights, mirror[places.astype(np.int64) % (2 * taken)]


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = ((A + 2) * x - (A + 3)) * x**2 + 1
    far = A * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
