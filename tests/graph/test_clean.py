import shutil

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
from onnx import TensorProto, helper

from torchlift.backends import backend
from torchlift.errors import ConversionError
from torchlift.graph.clean import ForgetOrigin, ForgetWrapper
from torchlift.graph.ends import name_ends
from torchlift.graph.files import load_model, save_model
from torchlift.graph.inspect import read_facts

SCOPES = "pkg.torch.onnx.name_scopes"
CLASSES = "pkg.torch.onnx.class_hierarchy"
STACK = "pkg.torch.onnx.stack_trace"


def note(entry, **values):
    for key, value in values.items():
        entry.metadata_props.add(key=key, value=value)


@pytest.fixture
def traced():
    """The tiny model with notes as torch's exporter leaves them: on the model, a node, a branch and a function."""
    proto = tiny.model()
    origin = {STACK: 'File "/home/someone/net.py", line 3', SCOPES: "['', 'layers.0']"}
    note(proto, **{"pkg.torch.export.ExportedProgram": "File /home/someone/net.py", "author": "someone"})
    note(proto.graph, **{"pkg.torch.export.graph_signature": "x"})
    note(proto.graph.node[0], **origin, **{CLASSES: "['Net', 'Linear']"}, namespace="/home/someone")
    note(proto.graph.input[0], **{"pkg.torch.onnx.original_node_name": "/home/someone"})
    note(proto.graph.output[0], **{"pkg.torch.onnx.original_node_name": "/home/someone"})
    proto.graph.value_info.append(helper.make_tensor_value_info("product", TensorProto.FLOAT, ["batch", tiny.OUTPUTS]))
    note(proto.graph.value_info[0], whatever="/home/someone")
    for entry in (proto, proto.graph, proto.graph.node[1], proto.graph.input[0]):
        entry.doc_string = "/home/someone/net.py(3): forward"
    branch = helper.make_graph(
        [helper.make_node("Identity", ["sum"], ["branch"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)],
    )
    note(branch, **origin)
    note(branch.node[0], **origin)
    condition = helper.make_tensor("condition", TensorProto.BOOL, [], [True])
    proto.graph.node.insert(2, helper.make_node("Constant", [], ["condition"], value=condition))
    proto.graph.node.insert(
        3, helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch)
    )
    proto.graph.node[4].input[0] = "chosen"
    inner = helper.make_node("Relu", ["a"], ["b"])
    note(inner, **origin)
    function = helper.make_function("local", "Rectify", ["a"], ["b"], [inner], [helper.make_opsetid("", 20)])
    note(function, **origin)
    proto.functions.append(function)
    return ir.from_proto(proto)


def metadata(message):
    """All metadata in a protobuf message, at any depth, and all its doc strings."""
    for field, value in message.ListFields():
        if field.name == "metadata_props":
            yield from (entry.key for entry in value)
        elif field.name == "doc_string":
            yield value
        elif field.message_type is not None:
            for part in value if hasattr(value, "__len__") else [value]:
                yield from metadata(part)


def test_only_module_scopes_stay(traced):
    assert {*metadata(ir.to_proto(traced))} > {SCOPES, CLASSES, STACK, "whatever"}
    ForgetOrigin()(traced)
    assert {*metadata(ir.to_proto(traced))} == {SCOPES, CLASSES}


def test_stack_traces_go_and_module_scopes_stay(traced):
    result = ForgetOrigin()(traced)
    assert result.modified
    assert result.model is traced
    content = ir.to_proto(traced).SerializeToString()
    assert b"/home/someone" not in content
    assert STACK.encode() not in content
    assert b"graph_signature" not in content
    assert content.count(b"'layers.0'") == 7
    assert traced.metadata_props == {}


def test_forgetting_twice_changes_nothing(traced):
    ForgetOrigin()(traced)
    before = ir.to_proto(traced).SerializeToString(deterministic=True)
    assert not ForgetOrigin()(traced).modified
    assert ir.to_proto(traced).SerializeToString(deterministic=True) == before


def test_a_clean_graph_has_nothing_to_forget():
    assert not ForgetOrigin()(ir.from_proto(tiny.model())).modified


SCOPED = ["", "network", "network.layers.0", "linear"]
CLASSED = ["torchlift.Called", "mine.Net", "torch.nn.Linear", "aten.linear.default"]


def test_the_wrapper_leaves_the_names_of_modules():
    model = ir.from_proto(tiny.model())
    first, second, *_ = model.graph
    first.metadata_props.update({SCOPES: str(SCOPED), CLASSES: str(CLASSED)})
    first.name, second.name = "node_linear", "/network/layers.0/Add"
    assert ForgetWrapper("network")(model).modified
    assert first.metadata_props[SCOPES] == str(["", "layers.0", "linear"])
    assert first.metadata_props[CLASSES] == str(CLASSED[1:])
    assert [first.name, second.name] == ["node_linear", "/layers.0/Add"]
    assert not ForgetWrapper("network")(model).modified


@pytest.mark.parametrize("scopes", ["", "not a list", str(["", "layers.0", "linear"]), str(["", "network"])])
def test_other_names_of_modules_stay(scopes):
    model = ir.from_proto(tiny.model())
    first = next(iter(model.graph))
    first.metadata_props[SCOPES] = scopes
    ForgetWrapper("network")(model)
    assert first.metadata_props[SCOPES] == scopes


def test_weights_are_written_beside_by_a_relative_name_and_the_folder_can_move(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    save_model(ir.from_proto(tiny.model()), here / "net.onnx")
    assert sorted(p.name for p in here.iterdir()) == ["net.onnx", "net.onnx.data"]
    places = {
        entry.value
        for tensor in onnx.load(here / "net.onnx", load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert places == {"net.onnx.data"}
    assert str(tmp_path).encode() not in (here / "net.onnx").read_bytes()
    there = shutil.move(here, tmp_path / "there")
    x = tiny.sample(3)
    with backend("onnxruntime").open(there / "net.onnx", tiny.SIGNATURE) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], tiny.answer(x), rtol=1e-5, atol=1e-5)


def test_what_was_saved_answers_after_the_passes(tmp_path, traced):
    ForgetOrigin()(traced)
    name_ends(traced, tiny.SIGNATURE, tiny.SIGNATURE.input_names)
    save_model(traced, tmp_path / "net.onnx")
    onnx.checker.check_model(str(tmp_path / "net.onnx"))
    assert read_facts(tmp_path / "net.onnx").inputs == {"x": ("batch", 32)}
    x = tiny.sample(3)
    with backend("onnxruntime").open(tmp_path / "net.onnx", tiny.SIGNATURE) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], tiny.answer(x), rtol=1e-5, atol=1e-5)


def test_weights_with_several_hard_links_are_refused_with_what_to_do(tmp_path):
    model = ir.from_proto(tiny.model())
    save_model(model, tmp_path / "model.onnx")
    load_model(tmp_path / "model.onnx")
    (tmp_path / "copy.data").hardlink_to(tmp_path / "model.onnx.data")
    with pytest.raises(ConversionError, match=r"model\.onnx\.data has 2 hard links") as raised:
        load_model(tmp_path / "model.onnx")
    assert "cp -r" in raised.value.remedy
