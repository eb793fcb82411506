"""How near a picture is to the true one: PSNR and SSIM, as super-resolution is scored."""

from __future__ import annotations

import numpy as np

MOST_DB = 100.0
"""The PSNR, in dB, of pictures that are the same."""

WINDOW, SIGMA = 11, 1.5
"""Pixels of the Gaussian of SSIM, and its standard deviation."""


def luma(pixels: np.ndarray) -> np.ndarray:
    """Y of uint8 [H, W, 3], float64 [H, W], 16 to 235, by ITU-R BT.601 as MATLAB has it; not rounded."""
    return 16 + pixels.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """The peak signal-to-noise ratio in dB of pictures of the same shape, of values 0 to 255."""
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return MOST_DB if error == 0 else min(MOST_DB, float(10 * np.log10(255**2 / error)))


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """The structural similarity (Wang et al., 2004) of [H, W] or [H, W, C], 0 to 255: the mean over the channels, and
    over all places where the whole window lies in the picture. Sides must be 11 pixels or more.
    """
    one, other = (np.atleast_3d(values).astype(np.float64) for values in (one, other))
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean, mean_other = _blurred(one), _blurred(other)
    variance, variance_other = _blurred(one**2) - mean**2, _blurred(other**2) - mean_other**2
    both = _blurred(one * other) - mean * mean_other
    above = (2 * mean * mean_other + first) * (2 * both + second)
    below = (mean**2 + mean_other**2 + first) * (variance + variance_other + second)
    return float((above / below).mean())


def _blurred(values: np.ndarray) -> np.ndarray:
    """[H, W, C] by the Gaussian, where its window is whole: [H - 10, W - 10, C]."""
    taps = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    taps /= taps.sum()
    for _ in range(2):  # rows, then columns
        count = values.shape[0] - WINDOW + 1
        blurred = np.zeros((count, *values.shape[1:]))
        for place, tap in enumerate(taps):
            blurred += tap * values[place : place + count]
        values = blurred.swapaxes(0, 1)
    return values
