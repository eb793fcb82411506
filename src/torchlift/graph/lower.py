"""Writes a graph with the operators of an older opset, for a parser that knows no newer ones."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from torchlift.errors import ConversionError
from torchlift.graph.conditions import Pass, require_opset, standard_opset
from torchlift.graph.files import load_model, save_model
from torchlift.graph.lower_operators import EXPANSIONS
from torchlift.graph.lower_rules import (
    CHANGES,
    COMPARISONS,
    compare_as_floats,
    sized_kernel,
    weight_as_float,
    whole_shape,
)
from torchlift.graph.lower_steps import Rule, Steps, refused
from torchlift.graph.lower_untyped import scaled_scores
from torchlift.graph.types import infer_types
from torchlift.graph.units import name_nodes
from torchlift.graph.widen import Widen

_STANDARD = frozenset({"", "ai.onnx"})

_WHOLE_STANDARD = 17
"""A parser of an older opset, such as that of TensorRT 8.5, fails at three things that its opset has: comparisons of
integers, Shape of some axes only, and a convolution without the size of its kernel whose weight is computed."""


@dataclass(frozen=True)
class Target:
    """What a parser reads.

    - ``opset``: the newest opset that it knows.
    - ``unknown``: operators of that opset that it does not know.
    - ``integer_weights``: it reads DequantizeLinear of an integer constant. Otherwise a weight is written as a float
      constant, QuantizeLinear and DequantizeLinear, and a bias as a float constant.
    - ``typed``: the compiler computes in the types that the graph states. Otherwise it chooses types itself. Then the
      float32 inside of a normalisation is not written out, some patterns are written in the form that is fast there
      (lower_untyped.py), and a quantised graph is written without half precision: with the Casts of such a graph
      TensorRT 8.5 builds kernels that compute wrong answers.
    """

    opset: int
    unknown: frozenset[str] = frozenset()
    integer_weights: bool = True
    typed: bool = True


class Lower(Pass):
    """Writes a graph, and the graphs within its nodes, with operators that a :class:`Target` reads.

    - The outputs stay the same up to rounding. The opset becomes ``target.opset``, or stays if it is older.
    - Values that stay keep their names, types and shapes. The one exception: where a network is not typed, half
      precision beside integers becomes FP32.
    - A node may be written as several. The last of them keeps its name, the others are called ``NODE.STEP``, and all
      have its metadata.
    - Nodes of other domains stay as they are.
    - Only small constants are read. Float weights for ``integer_weights=False`` are computed when they are written, one
      at a time.

    Raises ConversionError, which names the node, where there is no rule. The model is then partly rewritten: drop it.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._rewritten = False

    def requires(self, model: ir.Model) -> None:
        """The model states its opset, and the installed onnx knows that opset."""
        require_opset(model)
        _require_known(model)

    def ensures(self, model: ir.Model) -> None:
        """Where anything was rewritten, the target's opset has each node of the standard, with its types."""
        if not self._rewritten:
            return
        opset = _opset(model)
        if opset > self._target.opset:
            raise ir.passes.PostconditionError(f"the graph is still of opset {opset}, above {self._target.opset}")
        misfits = ((node, _misfit(node, opset)) for node in _standard_nodes(model))
        for node, why in misfits:
            if why:
                raise refused(node, opset, why)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether anything was rewritten."""
        self._rewritten = False
        name_nodes(model)
        infer_types(model)
        widened = not self._target.typed and _has_integers(model) and Widen()(model).modified
        before = _opset(model)
        opset = min(before, self._target.opset)
        names = {*ir.convenience.create_value_mapping(model.graph), *(node.name for node in model.graph.all_nodes())}
        rewritten = [
            _rewrite(Steps(node, model.graph, names, opset, typed=self._target.typed), self._rules(node, before))
            for node in list(_standard_nodes(model))
        ]
        self._rewritten = widened or opset < before or any(rewritten)
        model.opset_imports["" if "" in model.opset_imports else "ai.onnx"] = opset
        if self._rewritten:
            model.ir_version = min(model.ir_version, _ir_version(opset))
            RemoveUnusedNodesPass()(model)
            ShapeInferencePass(check_type=False, strict_mode=False)(model)
        return ir.passes.PassResult(model, self._rewritten)

    def _rules(self, node: ir.Node, before: int) -> Iterator[Rule]:
        """The rules to apply to a node of opset ``before``, in this order, until one replaces it."""
        target, operator = self._target, node.op_type
        if operator == "MatMul" and not target.typed:
            yield scaled_scores
        if operator == "DequantizeLinear" and not target.integer_weights:
            yield weight_as_float
        if operator in COMPARISONS and target.opset < _WHOLE_STANDARD:
            yield compare_as_floats
        if operator == "Shape" and target.opset < _WHOLE_STANDARD:
            yield whole_shape
        if operator == "Conv" and target.opset < _WHOLE_STANDARD:
            yield sized_kernel
        known = _since(operator, min(before, target.opset))
        version = _since(operator, before)
        if operator in target.unknown:
            yield EXPANSIONS.get(operator, _unwritable("is an operator that the parser does not know"))
            return
        while version is not None and version != known:
            needs = f"needs opset {version}"
            yield CHANGES.get((operator, version)) or EXPANSIONS.get(operator, _unwritable(needs))
            version = _since(operator, version - 1)


def lower_file(source: Path, folder: Path, target: Target) -> Path:
    """Lower the ONNX file ``source`` for ``target``, write it to ``folder``/model.onnx, and return that file.

    Its weights are written beside it. ``folder`` must exist, and must not be the folder of ``source``. Raises
    ConversionError as :class:`Lower` does.
    """
    model = load_model(source)
    Lower(target)(model)
    file = folder / "model.onnx"
    save_model(model, file)
    return file


def _has_integers(model: ir.Model) -> bool:
    """Whether a graph is quantised."""
    return any(node.op_type == "DequantizeLinear" for node in model.graph)


def _standard_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes of the standard's domain, at any depth."""
    return (node for node in model.graph.all_nodes() if node.domain in _STANDARD)


def _opset(model: ir.Model) -> int:
    """The opset of the standard that a model imports; ``requires`` has made sure that there is one."""
    opset = standard_opset(model)
    assert opset is not None
    return opset


def _require_known(model: ir.Model) -> None:
    """Raise ConversionError where the installed onnx is older than the graph: it has no schemas to compare with."""
    from onnx import defs

    if (opset := _opset(model)) > (latest := defs.onnx_opset_version()):
        raise ConversionError(
            f"the graph is of opset {opset}, and the installed onnx knows up to {latest}",
            remedy="Install a later release of onnx, or export again with a lower `opset=`.",
        )


def _rewrite(steps: Steps, rules: Iterator[Rule]) -> bool:
    before = dict(steps.node.attributes), tuple(steps.node.inputs)
    for rule in rules:
        value = rule(steps)
        if value is not None:
            steps.replace_node(value)
            return True
    return before != (dict(steps.node.attributes), tuple(steps.node.inputs))


def _unwritable(why: str) -> Rule:
    def refuse(steps: Steps) -> None:
        raise steps.refused(f"{why}, and no rule writes it with other operators")

    return refuse


def _since(operator: str, opset: int) -> int | None:
    """The opset that introduced the version of an operator that ``opset`` has. None where it has no such operator."""
    schema = _schema(operator, opset)
    return None if schema is None else schema.since_version


@functools.cache
def _schema(operator: str, opset: int):  # type: ignore[no-untyped-def]
    import onnx

    try:
        return onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return None


def _ir_version(opset: int) -> int:
    """The version of the file format that came with ``opset``. A parser of that time may know no later one."""
    from onnx import helper

    return helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True)


def _misfit(node: ir.Node, opset: int) -> str:
    """Why the standard at ``opset`` does not allow a node, in words; "" where it does."""
    schema = _schema(node.op_type, opset)
    if schema is None:
        return "is no operator of that opset"
    if newer := node.attributes.keys() - schema.attributes.keys():
        return f"has the attribute {min(newer)}, which came later"
    if len(node.inputs) > schema.max_input or len(node.outputs) > schema.max_output:
        return "has more inputs or outputs than it had then"
    bound: dict[str, ir.DataType] = {}
    for values, ports in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for index, value in enumerate(values):
            if value is None or not isinstance(value.type, ir.TensorType):
                continue
            port, kind = ports[min(index, len(ports) - 1)], value.dtype
            same = bound.setdefault(port.type_str, kind) == kind or not port.is_homogeneous
            if f"tensor({kind.name.lower()})" not in port.types or not same:
                return f"has {value.name} as {kind.name}, which it did not take then"
    return ""
