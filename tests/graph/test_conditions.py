"""What each pass requires of a graph and ensures of its result, broken on purpose."""

import onnx
import onnx_ir as ir
import pytest
from lowering import graph
from onnx import TensorProto, helper

from torchlift.errors import ConversionError
from torchlift.graph.conditions import Pass
from torchlift.graph.fusion import fuse
from torchlift.graph.fusion.base import Fusion
from torchlift.graph.fusion.operators import FuseGelu, FuseLayerNorm
from torchlift.graph.half import ToHalf
from torchlift.graph.lower import Lower, Target
from torchlift.graph.quantize import Quantize
from torchlift.graph.schemes import SCHEMES
from torchlift.graph.widen import Widen

PRODUCT = "(float[n,2] x) => (float[n,2] y) { a = MatMul(x, w) y = Exp(a) }"
WEIGHT = {"w": [[1.0, 0.0], [0.0, 1.0]]}
RANGES = {"x": (-1.0, 1.0)}
SCHEME = SCHEMES["int8-s8s8"]


def product(opset=20):
    return ir.from_proto(graph(PRODUCT, opset, **WEIGHT))


def unchecked(*nodes, opsets=(("", 20),), outputs=("y",)):
    """A model that onnx's checker may refuse; ``nodes`` are (operator, inputs, output)."""
    made = [helper.make_node(operator, inputs, [output], name=output) for operator, inputs, output in nodes]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", *outputs)]
    proto = helper.make_graph(made, "net", values[:1], values[1:])
    return ir.from_proto(helper.make_model(proto, opset_imports=[helper.make_opsetid(*opset) for opset in opsets]))


PASSES = {
    "half": lambda model: ToHalf()(model),
    "quantize": lambda model: Quantize(SCHEME, RANGES)(model),
    "fuse": lambda model: fuse(model, [FuseLayerNorm, FuseGelu]),
}
DISORDERS = {
    "later": ([("Neg", ["a"], "y"), ("Exp", ["x"], "a")], ("y reads a", "a later node")),
    "cycle": ([("Add", ["b", "x"], "a"), ("Exp", ["a"], "b"), ("Exp", ["b"], "y")], ("a reads b", "a later node")),
    "nobody": ([("Add", ["x", "lost"], "y")], ("y reads lost", "nothing writes")),
    "output": ([("Exp", ["x"], "a")], ("output y",)),
}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("disorder", DISORDERS)
def test_nodes_that_do_not_follow_what_they_read_are_refused(name, disorder):
    nodes, said = DISORDERS[disorder]
    with pytest.raises(ConversionError) as raised:
        PASSES[name](unchecked(*nodes))
    assert all(part in raised.value.message for part in said)
    assert raised.value.remedy


@pytest.mark.parametrize("name", ["half", "quantize", "lower"])
def test_a_graph_that_states_no_opset_is_refused(name):
    passes = {**PASSES, "lower": lambda model: Lower(Target(17))(model)}
    with pytest.raises(ConversionError, match="opset"):
        passes[name](unchecked(("Exp", ["x"], "y"), opsets=[("com.example", 1)]))


def test_an_opset_by_the_standards_long_name_counts():
    for run in (ToHalf(), Lower(Target(17)), Quantize(SCHEMES["int8-weights"], {})):
        run(unchecked(("Exp", ["x"], "y"), opsets=[("ai.onnx", 20)]))


def test_integers_need_an_opset_with_scales_by_channel():
    with pytest.raises(ConversionError, match="opset 12"):
        Quantize(SCHEME, RANGES)(product(12))


@pytest.mark.parametrize("scheme", ["int8-s8s8", "int8-dynamic"])
def test_a_graph_that_is_quantised_already_is_refused(scheme):
    model = product()
    Quantize(SCHEMES[scheme], RANGES)(model)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    with pytest.raises(ConversionError, match="QuantizeLinear"):
        Quantize(SCHEME, RANGES)(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_newer_opset_than_the_installed_onnx_knows_is_refused_before_anything_is_written():
    model = product()
    model.opset_imports[""] = newer = onnx.defs.onnx_opset_version() + 1
    with pytest.raises(ConversionError, match=str(newer)):
        Lower(Target(17))(model)
    assert model.opset_imports[""] == newer


class CastTwice(ToHalf):
    def call(self, model):
        result = super().call(model)
        self._casts += self._casts[:1]
        return result


class CastToItself(ToHalf):
    def call(self, model):
        result = super().call(model)
        self._casts[0].inputs[0].dtype = self._casts[0].outputs[0].dtype
        return result


class QuantizeTwice(Quantize):
    def call(self, model):
        result = super().call(model)
        node = next(node for node in model.graph if node.op_type == "QuantizeLinear")
        again = ir.node("QuantizeLinear", node.inputs, name="again")
        again.outputs[0].dtype = ir.DataType.INT8
        model.graph.insert_after(node, again)
        return result


class QuantizeToFloats(Quantize):
    def call(self, model):
        result = super().call(model)
        node = next(node for node in model.graph if node.op_type == "QuantizeLinear")
        node.outputs[0].dtype = ir.DataType.FLOAT
        return result


class LowerNothing(Lower):
    def call(self, model):
        self._rewritten = True
        return ir.passes.PassResult(model, True)


class WidenHalf(Widen):
    def call(self, model):
        result = super().call(model)
        model.graph.initializers["w"].dtype = ir.DataType.FLOAT16
        return result


class FuseToUndeclared(Fusion):
    name = "undeclared"

    def fuse(self, graph):
        graph[-1].domain = "com.example"
        return 1


class RenamesAnOutput(Pass):
    def call(self, model):
        model.graph.outputs[0].name = "z"
        return ir.passes.PassResult(model, True)


class ChangesATypeOfAnInput(Pass):
    def call(self, model):
        model.graph.inputs[0].dtype = ir.DataType.DOUBLE
        return ir.passes.PassResult(model, True)


def halved():
    model = product()
    ToHalf()(model)
    return model


BROKEN = {
    "half twice": (product, CastTwice()),
    "half to itself": (product, CastToItself()),
    "quantize twice": (product, QuantizeTwice(SCHEME, RANGES)),
    "quantize to floats": (product, QuantizeToFloats(SCHEME, RANGES)),
    "lower": (product, LowerNothing(Target(17))),
    "widen": (halved, WidenHalf()),
    "fusion": (product, FuseToUndeclared()),
    "name": (product, RenamesAnOutput()),
    "type": (product, ChangesATypeOfAnInput()),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_pass_that_breaks_its_promise_does_not_return(name):
    model, broken = BROKEN[name]
    with pytest.raises(ir.passes.PostconditionError):
        broken(model())


def test_what_the_older_standard_does_not_allow_is_an_error_that_says_what_to_do():
    class Keeps(Lower):
        def call(self, model):
            result = super().call(model)
            ir.convenience.create_value_mapping(model.graph)["a"].producer().op_type = "Gelu"
            return result

    with pytest.raises(ConversionError, match="no operator of that opset") as raised:
        Keeps(Target(17))(product())
    assert raised.value.remedy
