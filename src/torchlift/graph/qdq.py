"""The arithmetic of linear quantisation: a scale and a zero point from a range, integers from floats, and the noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Integer = Literal["int8", "uint8"]

LIMITS: dict[Integer, tuple[int, int]] = {"int8": (-127, 127), "uint8": (0, 255)}
"""The integers in use. int8 stops at -127 so that it is symmetric, as TensorRT's is."""

_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Linear:
    """``real = (integer - zero_point) * scale``, as QuantizeLinear and DequantizeLinear of ONNX define it.

    ``scale`` is float32: [] for a whole tensor, or [n] with one for each slice along ``axis``.
    """

    scale: np.ndarray
    zero_point: int
    dtype: Integer
    axis: int | None = None

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """Float values to integers of ``dtype``: halves round to even, what lies outside saturates."""
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
    """What represents ``low``..``high``, widened to hold zero: int8 symmetric, uint8 asymmetric; zero is exact.

    A range without extent (a tensor that is always zero) gets the scale 1.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if dtype == "int8":
        return Linear(_scales(np.float64(max(-low, high) / 127)), 0, dtype)
    scale = _scales(np.float64((high - low) / 255))
    return Linear(scale, round(-low / float(scale)), dtype)


def for_weight(weight: np.ndarray, axis: int, amax: np.ndarray | None = None) -> Linear:
    """int8, symmetric, a scale for each slice of ``weight`` along ``axis``: its largest magnitude becomes 127.

    ``amax``, one for each slice or one for all, takes the place of the largest magnitudes. Slices without extent get
    the largest scale of the others. Raises ValueError for an ``amax`` of another size.
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
    """float32, positive, no denormals; where there is nothing to represent, the largest of the others or 1."""
    instead = float(steps.max()) or 1.0
    return np.where(steps > 0, np.maximum(steps, _SMALLEST), instead).astype(np.float32)


def signal_to_noise(values: np.ndarray, linear: Linear, counts: np.ndarray | None = None) -> float:
    """10 log10(sum x^2 / sum (x - q(x))^2) in dB, where q quantises and dequantises; infinite where nothing is lost.

    ``counts`` says how often each value occurs, for values that are the centres of a histogram's bins.
    """
    values = np.asarray(values, np.float32)
    error = values - linear.dequantize(linear.quantize(values))
    signal, noise = (_power(v, counts) for v in (values, error))
    return 10 * float(np.log10(signal / noise)) if noise else float("inf")


def _power(values: np.ndarray, counts: np.ndarray | None) -> float:
    squares = np.square(values, dtype=np.float64)
    return float(squares.sum() if counts is None else (squares * counts).sum())
