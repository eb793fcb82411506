"""Converts a graph from FP32 to INT8 by one of the schemes of schemes.py. Inputs and outputs keep their types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from torchlift.errors import ConversionError
from torchlift.graph.conditions import Pass, require_opset, require_order
from torchlift.graph.qdq import Linear, for_activation, for_weight, signal_to_noise
from torchlift.graph.schemes import (
    LEAST_OPSET,
    PRODUCTS,
    Scheme,
    attribute,
    candidates,
    channel_axis,
    results,
    unit_of,
    work,
)
from torchlift.graph.units import Unit, name_nodes, require_nodes

Ranges = Mapping[str, tuple[float, float]]
"""Tensor name -> the smallest and the largest value that its integers represent."""

_FLOAT = ir.DataType.FLOAT
_EIGHT_BITS = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
_QUANTIZERS = frozenset({"DynamicQuantizeLinear", "QuantizeLinear"})


@dataclass(frozen=True)
class QuantizedUnit:
    """A node that was quantised.

    ``activation`` is the tensor that it reads. ``input`` is how that tensor is quantised; None where it is not, or only
    at run time. ``weight`` is how its weight is quantised, and ``weight_noise`` the signal-to-noise of that in dB.
    """

    unit: Unit
    activation: str
    input: Linear | None = field(repr=False)
    weight: Linear = field(repr=False)
    weight_noise: float


@dataclass(frozen=True)
class QuantizeReport:
    """What was quantised, and what was not.

    ``kept`` are the products with a constant weight that stay in floating point. ``share`` is the share of integers in
    the multiplications of all Conv, Gemm and MatMul, 0..1. It is counted with size 1 for axes that vary.
    """

    scheme: Scheme
    quantized: tuple[QuantizedUnit, ...]
    kept: tuple[Unit, ...]
    share: float


@dataclass
class QuantizeResult(ir.passes.PassResult):
    """The result of :class:`Quantize`, with its report."""

    report: QuantizeReport


class Quantize(Pass):
    """Quantises Conv, Gemm and MatMul with a constant weight, except for the nodes named by ``keep``.

    ``ranges`` must hold all tensors that :func:`torchlift.graph.schemes.observed` names. ``learnt`` maps a node to the
    magnitude of its weight that 127 stands for: float [output channels], or one number for all. Without it, that is the
    largest magnitude that occurs.

    - A tensor gets one pair of QuantizeLinear and DequantizeLinear for all quantised nodes that read it. Other nodes
      read it as before.
    - A quantised weight becomes an int8 initializer with float32 scales. Weights are read one at a time.
    - Quantised nodes keep their names. With all nodes kept, nothing changes.

    Returns :class:`QuantizeResult`. Raises ConversionError for a name in ``keep`` that the graph lacks, for a range
    that is missing or not finite, and for learnt scales of another size.
    """

    def __init__(
        self,
        scheme: Scheme,
        ranges: Ranges | None = None,
        *,
        keep: Collection[str] = (),
        learnt: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._scheme, self._ranges = scheme, ranges or {}
        self._keep, self._learnt = frozenset(keep), learnt or {}

    def requires(self, model: ir.Model) -> None:
        """The opset has scales by channel, each node follows the nodes that it reads, and nothing is quantised yet."""
        require_opset(model, LEAST_OPSET, needs="scales by channel")
        require_order(model)
        _require_floats(model)

    def ensures(self, model: ir.Model) -> None:
        """One node at most quantises a tensor, and it writes 8-bit integers."""
        seen: set[ir.Value] = set()
        for node in model.graph:
            if node.op_type not in _QUANTIZERS:
                continue
            if node.inputs[0] in seen:
                raise ir.passes.PostconditionError(f"{node.inputs[0].name} is quantised twice")
            if node.outputs[0].dtype not in _EIGHT_BITS:
                raise ir.passes.PostconditionError(f"{node.name} writes {node.outputs[0].dtype}")
            seen.add(node.inputs[0])

    def call(self, model: ir.Model) -> QuantizeResult:
        name_nodes(model)
        require_nodes(model, self._keep)
        chosen = [node for node in candidates(model, self._scheme) if node.name not in self._keep]
        inputs = _activations(chosen, self._scheme, self._ranges)
        products = [node for node in model.graph if node.op_type in PRODUCTS]
        total, share = sum(map(work, products)), sum(map(work, chosen))
        kept = [n for n in products if n not in {*chosen} and n.inputs[1] is not None and n.inputs[1].is_initializer()]
        writer = _Writer(model.graph, self._scheme, inputs, self._learnt)
        report = QuantizeReport(
            scheme=self._scheme,
            kept=tuple(unit_of(node) for node in kept),
            quantized=tuple(writer.quantize(node) for node in chosen),
            share=share / total if total else 0.0,
        )
        return QuantizeResult(model, modified=bool(chosen), report=report)


def _require_floats(model: ir.Model) -> None:
    """Raise ConversionError where a graph is quantised already: a second pair would cost accuracy and gain nothing."""
    node = next((node for node in model.graph if node.op_type in _QUANTIZERS), None)
    if node is not None:
        raise ConversionError(
            f"the graph is quantised already: {unit_of(node)}",
            remedy="Export the network in floating point, or use this graph as it is: FP32 keeps its integers.",
        )


def _activations(nodes: Sequence[ir.Node], scheme: Scheme, ranges: Ranges) -> dict[str, Linear]:
    """Tensor name -> how it is quantised, for the tensors that get a pair."""
    if scheme.activations is None:
        return {}
    found = {}
    for node in nodes:
        for value in (node.inputs[0], *results(node, scheme)):
            low, high = ranges.get(value.name, (np.nan, np.nan))
            if not np.isfinite([low, high]).all():
                what = f"is {low:.6g}..{high:.6g}" if value.name in ranges else "is not known"
                raise ConversionError(
                    f"the range of {value.name}, which {node.name} reads or writes, {what}",
                    remedy="Calibrate it on samples that give finite values, or keep this node in FP32.",
                )
            found[value.name] = for_activation(low, high, scheme.activations)
    return found


def _bias(node: ir.Node) -> tuple[ir.Node, int]:
    """The node that reads the bias of ``node``, and the position of that input.

    For a MatMul of matrices that is the Add behind it: ONNX Runtime joins the two into one Gemm.
    """
    product = node.outputs[0]
    uses = product.uses()
    matrices = product.shape is None or len(product.shape) == 2
    if node.op_type == "MatMul" and matrices and len(uses) == 1 and uses[0].node.op_type == "Add":
        return uses[0].node, 1 - uses[0].idx
    return node, 2


class _Writer:
    """Rewrites nodes one after another, in the graph's order."""

    def __init__(
        self, graph: ir.Graph, scheme: Scheme, inputs: Mapping[str, Linear], learnt: Mapping[str, np.ndarray]
    ) -> None:
        self._graph, self._scheme, self._inputs, self._learnt = graph, scheme, inputs, learnt
        self._names = {*ir.convenience.create_value_mapping(graph), *(node.name for node in graph)}
        self._pairs: dict[str, ir.Value] = {}
        self._plain: dict[ir.Value, str] = {}
        self._dynamic: dict[ir.Value, Sequence[ir.Value]] = {}

    def quantize(self, node: ir.Node) -> QuantizedUnit:
        data, weight = node.inputs[:2]
        read = self._plain.get(data, data.name)
        values = weight.const_value.numpy()
        linear = self._weight_scales(node, values)
        integers = linear.quantize(values)
        done = QuantizedUnit(unit_of(node), read, self._inputs.get(read), linear, signal_to_noise(values, linear))
        if self._scheme.dynamic:
            self._multiply_integers(node, integers, linear)
        else:
            self._write_pairs(node, integers, linear)
        self._forget(weight)
        return done

    def _weight_scales(self, node: ir.Node, values: np.ndarray) -> Linear:
        try:
            return for_weight(values, channel_axis(node), self._learnt.get(node.name))
        except ValueError as error:
            raise ConversionError(
                f"the learnt scales of {node.name} do not fit: {error}",
                remedy="Scales of a weight are one, or one for each output channel; import the checkpoint again.",
            ) from error

    def _write_pairs(self, node: ir.Node, integers: np.ndarray, linear: Linear) -> None:
        scale = self._constant(f"{node.name}.weight.scale", linear.scale)
        weight = self._dequantized(node, f"{node.name}.weight", integers, scale, linear.axis)
        weight.shape = node.inputs[1].shape
        if self._scheme.biases == "int32":
            self._quantize_bias(node, linear)
        node.replace_input_with(1, weight)
        if self._scheme.activations:
            node.replace_input_with(0, self._pair(node.inputs[0]))
        for value in results(node, self._scheme):
            uses = list(value.uses())
            pair = self._pair(value)
            for use in uses:
                use.node.replace_input_with(use.idx, pair)

    def _quantize_bias(self, node: ir.Node, weight: Linear) -> None:
        """Write a constant bias as int32. Its scale is that of the products: input scale * weight scale.

        A bias that int32 cannot hold in that scale stays as it is.
        """
        reader, index = _bias(node)
        bias = reader.inputs[index] if len(reader.inputs) > index else None
        if bias is None or not bias.is_initializer() or bias.const_value.shape != weight.scale.shape:
            return
        read = self._inputs[self._plain.get(node.inputs[0], node.inputs[0].name)]
        steps = read.scale * weight.scale.astype(np.float64)
        scales = np.maximum(steps, np.finfo(np.float32).tiny).astype(np.float32)
        integers = np.rint(bias.const_value.numpy().astype(np.float64) / scales)
        if np.abs(integers).max() >= 2**31:
            return
        scale = self._constant(f"{node.name}.bias.scale", scales)
        value = self._dequantized(node, f"{node.name}.bias", integers.astype(np.int32), scale, 0)
        value.shape = bias.shape
        reader.replace_input_with(index, value)
        self._forget(bias)

    def _forget(self, weight: ir.Value) -> None:
        if not weight.uses() and not weight.is_graph_output():
            self._graph.initializers.pop(weight.name)

    def _dequantized(
        self, before: ir.Node, name: str, integers: np.ndarray, scale: ir.Value, axis: int | None
    ) -> ir.Value:
        constants = [self._constant(f"{name}.{integers.dtype}", integers), scale]
        if integers.dtype == np.int8:
            constants.append(self._constant(f"{name}.zero", np.zeros(scale.const_value.shape, np.int8)))
        return self._add(before, "DequantizeLinear", name, constants, [_FLOAT], axis=axis)[0]

    def _pair(self, value: ir.Value) -> ir.Value:
        """The value behind the pair of QuantizeLinear and DequantizeLinear of ``value``, which is made at the first
        call.
        """
        if value in self._plain:
            return value
        if value.name not in self._pairs:
            linear = self._inputs[value.name]
            constants = [
                self._constant(f"{value.name}.scale", linear.scale),
                self._constant(f"{value.name}.zero", np.array(linear.zero_point, linear.dtype)),
            ]
            producer = value.producer()
            near, after = (self._graph[0], False) if producer is None else (producer, True)
            kind = ir.DataType[linear.dtype.upper()]
            name = f"{value.name}.{linear.dtype}"
            (quantized,) = self._add(near, "QuantizeLinear", name, [value, *constants], [kind], after=after)
            writer, name = quantized.producer(), f"{value.name}.dq"
            (pair,) = self._add(writer, "DequantizeLinear", name, [quantized, *constants], [_FLOAT], after=True)
            quantized.shape = pair.shape = value.shape
            self._pairs[value.name] = pair
            self._plain[pair] = value.name
        return self._pairs[value.name]

    def _multiply_integers(self, node: ir.Node, integers: np.ndarray, linear: Linear) -> None:
        """Write the node as MatMulInteger with scales, in the form that ONNX Runtime fuses to DynamicQuantizeMatMul."""
        data, bias = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
        if data not in self._dynamic:
            kinds = [ir.DataType.UINT8, _FLOAT, ir.DataType.UINT8]
            self._dynamic[data] = self._add(node, "DynamicQuantizeLinear", f"{data.name}.uint8", [data], kinds)
        quantized, scale, zero = self._dynamic[data]
        if attribute(node, "transB", 0):
            integers = np.ascontiguousarray(integers.T)
        weight = self._constant(f"{node.name}.weight.int8", integers)
        factors = self._constant(f"{node.name}.weight.scale", linear.scale)
        (sums,) = self._add(node, "MatMulInteger", f"{node.name}.int32", [quantized, weight, zero], [ir.DataType.INT32])
        (floats,) = self._add(node, "Cast", f"{node.name}.float", [sums], [_FLOAT], to=_FLOAT)
        (steps,) = self._add(node, "Mul", f"{node.name}.scale", [scale, factors], [_FLOAT])
        (result,) = self._add(node, "Mul", f"{node.name}.scaled", [floats, steps], [_FLOAT])
        if bias is not None:
            (result,) = self._add(node, "Add", f"{node.name}.biased", [result, bias], [_FLOAT])
        self._replace(node, result)

    def _replace(self, node: ir.Node, value: ir.Value) -> None:
        """Replace ``node`` by the writer of ``value``. Both keep the names of ``node`` and its output."""
        old, producer = node.outputs[0], value.producer()
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)
        value.name, value.shape, producer.name = old.name, old.shape, node.name

    def _add(
        self,
        near: ir.Node,
        operator: str,
        name: str,
        inputs: Sequence[ir.Value],
        kinds: Sequence[ir.DataType],
        *,
        after: bool = False,
        **attributes: int | None,
    ) -> Sequence[ir.Value]:
        """Insert a node before or after ``near``, with the metadata of ``near``; returns its outputs."""
        given = {key: value for key, value in attributes.items() if value is not None}
        outputs = [ir.Value(name=self._free(name), type=ir.TensorType(kind)) for kind in kinds]
        notes = dict(near.metadata_props)
        node = ir.node(operator, inputs, given, outputs=outputs, name=outputs[0].name, metadata_props=notes)
        (self._graph.insert_after if after else self._graph.insert_before)(near, node)
        return outputs

    def _constant(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=self._free(name))
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _free(self, name: str) -> str:
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name
