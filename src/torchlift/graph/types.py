"""Types of a graph's values: what onnx infers, and tensors in another type of floats."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def infer_types(model: ir.Model) -> None:
    """Give every value that has none the type and shape that onnx infers, where it can; weights are not read."""
    from onnx_ir.passes.common import ShapeInferencePass

    values = [value for node in model.graph.all_nodes() for value in node.outputs if value.name]
    if any(value.dtype is None for value in values):
        ShapeInferencePass(check_type=False, strict_mode=False)(model)


def converted(tensor: ir.TensorProtocol, dtype: ir.DataType, name: str | None) -> ir.LazyTensor:
    """A tensor in another type of floats, converted when it is written; what that cannot hold becomes infinite or 0."""

    def convert() -> ir.Tensor:
        with np.errstate(over="ignore", under="ignore"):
            return ir.Tensor(tensor.numpy().astype(dtype.numpy()), name=name)

    return ir.LazyTensor(convert, dtype=dtype, shape=tensor.shape, name=name)
