"""The step to which a graph rounds inside, where the network was written with fake quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_QUANTISED = {"INT4": (-8, 7), "UINT4": (0, 15), "INT8": (-128, 127), "UINT8": (0, 255)}
"""Type of QuantizeLinear's integers -> the least and the greatest. Finer types round less than FP32 may differ."""


def rounding_step(file: Path) -> float:
    """The largest step of an ONNX file's graph, as a share of the largest number that the integers reach.

    For example QuantizeLinear to int8 has the step 1/128: where two runtimes round a value near the half differently,
    they differ by that share. 0 for a graph without QuantizeLinear, and without a Round that a Clip follows.
    """
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    constants = _constants(graph, file.parent)
    readers = {name: node for node in graph.node for name in node.input}
    steps = (_step(node, constants, readers) for node in graph.node)
    return max((step for step in steps if step is not None), default=0.0)


def _step(node: Any, constants: Mapping[str, np.ndarray], readers: Mapping[str, Any]) -> float | None:
    if node.op_type == "QuantizeLinear":
        return _of_integers(node, constants)
    behind = readers.get(node.output[0]) if node.op_type == "Round" else None
    if behind is None or behind.op_type != "Clip":
        return None
    ends = [constants[name] for name in behind.input[1:] if name in constants]
    reach = max((float(np.abs(end).max()) for end in ends if end.size), default=0.0)
    return 1 / reach if len(ends) == 2 and 1 <= reach < np.inf else None


def _of_integers(node: Any, constants: Mapping[str, np.ndarray]) -> float | None:
    from onnx import TensorProto, helper

    name = node.input[2] if len(node.input) > 2 else ""
    zero = constants.get(name)
    asked = next((a.i for a in node.attribute if a.name == "output_dtype"), TensorProto.UINT8)
    kind = asked or TensorProto.UINT8
    if zero is not None:
        kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
    ends = _QUANTISED.get(TensorProto.DataType.Name(kind))
    if ends is None:
        return None
    points = np.zeros(1) if zero is None else zero.astype(np.float64)
    return 1 / float(np.maximum(np.abs(ends[0] - points), np.abs(ends[1] - points)).min())


def _constants(graph: Any, folder: Path) -> dict[str, np.ndarray]:
    """The zero points and ends in a graph: its small constants by name."""
    from onnx import numpy_helper

    return {name: numpy_helper.to_array(tensor, str(folder)) for name, tensor in _tensors(graph)}


def _tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    wanted = {name for node in graph.node if node.op_type in ("QuantizeLinear", "Clip") for name in node.input[1:]}
    yield from ((tensor.name, tensor) for tensor in graph.initializer if tensor.name in wanted)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in wanted:
            yield from ((node.output[0], a.t) for a in node.attribute if a.name == "value")
