"""The arithmetic of linear quantisation: scale and zero point of a range, integers from floats, and its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Integer = Literal["int8", "uint8"]

LIMITS: dict[Integer, tuple[int, int]] = {"int8": (-127, 127), "uint8": (0, 255)}
"""The range of integers that is used. int8 ends at -127, so that it is symmetric, as in TensorRT."""

_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Linear:
    """``real = (integer - zero_point) * scale``, as QuantizeLinear and DequantizeLinear of ONNX define it.

    ``scale`` is float32: [] is one for the whole tensor, [n] is one for each slice along ``axis``.
    """

    scale: np.ndarray
    zero_point: int
    dtype: Integer
    axis: int | None = None

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Floats to integers of ``dtype``. Halves round to even; values outside of the range become its nearest end."""
        low, high = LIMITS[self.dtype]
        with np.errstate(over="ignore"):
            integers = np.divide(values, self._broadcast(values.ndim), dtype=np.float32)
        integers = np.rint(integers) + np.float32(self.zero_point)
        return np.clip(integers, low, high).astype(self.dtype)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """Integers to float32."""
        shifted = integers.astype(np.int32) - self.zero_point
        return shifted.astype(np.float32) * self._broadcast(integers.ndim)

    def _broadcast(self, rank: int) -> np.ndarray:
        if self.axis is None:
            return self.scale
        return self.scale.reshape([-1 if d == self.axis else 1 for d in range(rank)])


def for_activation(low: float, high: float, dtype: Integer) -> Linear:
    """The quantisation of a tensor with values ``low``..``high``: symmetric for int8, asymmetric for uint8.

    The range is widened to hold zero, which is represented exactly. A tensor that is always zero gets the scale 1.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if dtype == "int8":
        return Linear(_scales(np.float64(max(-low, high) / 127)), 0, dtype)
    scale = _scales(np.float64((high - low) / 255))
    return Linear(scale, round(-low / float(scale)), dtype)


def for_weight(weight: np.ndarray, axis: int, amax: np.ndarray | None = None) -> Linear:
    """The quantisation of a weight: symmetric int8, with one scale for each slice along ``axis``.

    The largest magnitude of a slice becomes 127. ``amax`` gives other magnitudes, one for each slice or one for all. A
    slice that is all zero gets the largest scale of the others. Raises ValueError for an ``amax`` of another size.
    """
    slices = weight.shape[axis]
    if amax is None:
        others = tuple(d for d in range(weight.ndim) if d != axis)
        amax = np.maximum(weight.max(axis=others), -weight.min(axis=others))
    sizes = np.abs(np.asarray(amax, np.float64)).reshape(-1)
    if sizes.size not in (1, slices):
        raise ValueError(f"{sizes.size} ranges for the {slices} channels of a weight")
    return Linear(_scales(np.broadcast_to(sizes, slices) / 127), 0, "int8", axis)


def _scales(steps: np.ndarray | np.float64) -> np.ndarray:
    """Scales as float32, positive and not denormal. A scale of 0 becomes the largest of the others, or 1."""
    instead = float(steps.max()) or 1.0
    return np.where(steps > 0, np.maximum(steps, _SMALLEST), instead).astype(np.float32)


def signal_to_noise(values: np.ndarray, linear: Linear, counts: np.ndarray | None = None) -> float:
    """10 log10(sum x^2 / sum (x - q(x))^2) in dB, where q quantises and dequantises. Infinite where q loses nothing.

    ``counts`` is how often each value occurs, for values that are the centres of a histogram's bins.
    """
    values = np.asarray(values, np.float32)
    error = values - linear.dequantize(linear.quantize(values))
    signal, noise = (_power(v, counts) for v in (values, error))
    return 10 * float(np.log10(signal / noise)) if noise else float("inf")


def _power(values: np.ndarray, counts: np.ndarray | None) -> float:
    squares = np.square(values, dtype=np.float64)
    return float(squares.sum() if counts is None else (squares * counts).sum())
