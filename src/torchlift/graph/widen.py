"""Half precision within a graph back to FP32, for compilers that choose types themselves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from torchlift.graph.edit import infer_types
from torchlift.graph.lower_steps import FLOAT, HALVES


class Widen(ir.passes.InPlacePass):
    """Writes what a graph computes in half precision in FP32: what :class:`torchlift.graph.half.ToHalf` did, undone.

    Requires that no input, output or subgraph holds half precision, and no node but Casts states it. Ensures that none
    is left, that nodes keep their names, and that no Cast stays that changes nothing, but one that writes an output.
    Weights keep the values that half precision gave them; each is computed when it is written.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether there was any half precision."""
        infer_types(model)
        graph, modified = model.graph, False
        for value in (*graph.initializers.values(), *(value for node in graph for value in node.outputs)):
            if value.dtype in HALVES:
                value.dtype, modified = FLOAT, True
                if value.const_value is not None:
                    value.const_value = _widened(value.const_value)
        for cast in [node for node in graph if node.op_type == "Cast" and node.outputs[0].dtype == FLOAT]:
            given, written = cast.inputs[0], cast.outputs[0]
            cast.attributes["to"] = ir.AttrInt64("to", FLOAT.value)
            if given.dtype == FLOAT and not written.is_graph_output():
                written.replace_all_uses_with(given)
                graph.remove(cast, safe=True)
        return ir.passes.PassResult(model, modified)


def _widened(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    def widen() -> ir.Tensor:
        return ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name)

    return ir.LazyTensor(widen, dtype=FLOAT, shape=tensor.shape, name=tensor.name)
