"""Types of a graph's values: inference by onnx, and weights in another type of floats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def infer_types(model: ir.Model) -> None:
    """Let onnx infer types and shapes where a value has none. Some may stay unknown. Weights are not read."""
    from onnx_ir.passes.common import ShapeInferencePass

    values = [value for node in model.graph.all_nodes() for value in node.outputs if value.name]
    if any(value.dtype is None for value in values):
        ShapeInferencePass(check_type=False, strict_mode=False)(model)


def converted(tensor: ir.TensorProtocol, dtype: ir.DataType, name: str | None) -> ir.LazyTensor:
    """A tensor in another type of floats.

    It is converted when it is read; numbers out of range become infinite or 0.
    """

    def convert() -> ir.Tensor:
        with np.errstate(over="ignore", under="ignore"):
            return ir.Tensor(tensor.numpy().astype(dtype.numpy()), name=name)

    return ir.LazyTensor(convert, dtype=dtype, shape=tensor.shape, name=name)
