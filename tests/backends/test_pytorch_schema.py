"""What the JSON of a program may say, key by key."""

import pickle
import re

import pytest

from torchlift.errors import BundleError

torch = pytest.importorskip("torch")

from programs import PROGRAM, WEIGHTS, tampered, write_program  # noqa: E402
from tampering import CALL, GRAPH, GRAPH_MODULE, INPUT, META, NODE, WEIGHT, inside, set_sizes  # noqa: E402

from torchlift.backends.pytorch.program import load_program  # noqa: E402


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_program(tmp_path_factory.mktemp("program") / "model.pt2")


LEVELS = [
    (PROGRAM,),
    (PROGRAM, "schema_version"),
    GRAPH_MODULE,
    (*GRAPH_MODULE, "signature"),
    (*GRAPH_MODULE, "signature", "input_specs", 0, "parameter"),
    CALL,
    (*CALL, "signature"),
    GRAPH,
    NODE,
    INPUT,
    (*INPUT, "arg"),
    (*INPUT, "arg", "as_tensor"),
    META,
    (*META, "device"),
    (*META, "sizes", 0),
    (*META, "sizes", 0, "as_expr"),
    (WEIGHTS,),
    WEIGHT,
    (*WEIGHT, "tensor_meta"),
    (*WEIGHT, "tensor_meta", "device"),
]


@pytest.mark.parametrize("keys", LEVELS, ids=lambda keys: ".".join(map(str, keys)))
def test_a_key_that_torch_does_not_write_is_refused_at_every_level(archive, tmp_path, keys):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: inside(records, keys).update(surprise=1))
    with pytest.raises(BundleError, match=f"it has the 'surprise' at {re.escape('.'.join(map(str, keys)))}"):
        load_program(file)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ((PROGRAM,), []),
        (GRAPH, "x"),
        ((*GRAPH, "nodes"), {}),
        ((*NODE, "target"), ["torch.ops.aten.linear.default"]),
        ((*NODE, "name"), 1),
        ((*INPUT, "kind"), True),
        ((*INPUT, "arg"), {"as_int": 1.0}),
        ((*INPUT, "arg"), {"as_int": 2**63}),
        ((*INPUT, "arg"), {"as_int": "1"}),
        ((*INPUT, "arg"), {"as_bool": 1}),
        ((*INPUT, "arg"), {"as_float": "1.0"}),
        ((*INPUT, "arg"), {"as_float": False}),
        ((*INPUT, "arg"), {"as_ints": 1}),
        ((*INPUT, "arg"), {"as_string": 1}),
        ((*INPUT, "arg"), {"as_layout": 1}),
        ((*INPUT, "arg"), {"as_memory_format": 9}),
        ((*INPUT, "arg"), {"as_device": {"type": "xla", "index": None}}),
        ((*INPUT, "arg"), {"as_none": True, "as_int": 1}),
        ((*INPUT, "arg"), {}),
        ((*META, "dtype"), "7"),
        ((*META, "sizes"), [{"as_int": None}]),
        ((*META, "sizes"), [{"as_expr": {"expr_str": ["s0"]}}]),
        ((*CALL, "signature", "in_spec"), None),
        ((*CALL, "signature", "forward_arg_names"), ["a=print()"]),
        ((*GRAPH_MODULE, "treespec_namedtuple_fields"), {"os.system": {"field_names": []}}),
        ((*GRAPH, "custom_obj_values"), {"a": {"name": "a", "class_fqn": "b"}}),
        ((PROGRAM, "range_constraints"), {"print()": {"min_val": 1, "max_val": 2}}),
        ((PROGRAM, "guards_code"), "print()"),
        ((*WEIGHT, "tensor_meta"), None),
        ((*WEIGHT, "is_param"), "false"),
    ],
)
def test_a_value_of_another_type_is_refused(archive, tmp_path, keys, value):
    file = tampered(archive, tmp_path / "model.pt2", lambda r: inside(r, keys[:-1]).update({keys[-1]: value}))
    with pytest.raises(BundleError, match=f"it has the .* at {re.escape('.'.join(map(str, keys)))}") as caught:
        load_program(file)
    assert str(keys[-1]) in caught.value.message


@pytest.mark.parametrize("keys", [(*GRAPH, "nodes"), (*NODE, "target"), (*WEIGHT, "use_pickle")])
def test_a_key_that_is_missing_is_named(archive, tmp_path, keys):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: inside(records, keys[:-1]).pop(keys[-1]))
    with pytest.raises(BundleError, match=f"it has no '{keys[-1]}' at "):
        load_program(file)


def of_a_node(key, value):
    return lambda records: inside(records, NODE).update({key: value})


def name_of_an_output(records):
    inside(records, NODE)["outputs"][0]["as_tensor"]["name"] = "x\n    import os\n    y"


def name_of_a_weight(records):
    spec = next(s for s in records[PROGRAM]["graph_module"]["signature"]["input_specs"] if "parameter" in s)
    spec["parameter"]["parameter_name"] = 'a" + print("b") + "'


def argument(arg):
    return lambda records: inside(records, NODE)["inputs"][0].update({"arg": arg})


REFUSED = {
    "the record data/aotinductor/model/a.so": lambda r: r.update({"data/aotinductor/model/a.so": b"ELF"}),
    "the record extra/notes": lambda r: r.update({"extra/notes": b"hello"}),
    "the record data/constants/custom_obj_0": lambda r: r.update({"data/constants/custom_obj_0": pickle.dumps(1)}),
    "no program": lambda r: r.pop(PROGRAM),
    "the version '1'": lambda r: r.update({"archive_version": b"1"}),
    "no data/weights/model_weights_config.json": lambda r: r.pop(WEIGHTS),
    "the target 'torch.serialization.load'": of_a_node("target", "torch.serialization.load"),
    "the target '_operator.methodcaller'": of_a_node("target", "_operator.methodcaller"),
    "the target 'torch.ops.aten.save.default'": of_a_node("target", "torch.ops.aten.save.default"),
    "the target 'torch.ops.aten.from_file.default'": of_a_node("target", "torch.ops.aten.from_file.default"),
    "the target 'torch.ops.higher_order.cond'": of_a_node("target", "torch.ops.higher_order.cond"),
    "the target 'torch.ops.aten.__dict__.update'": of_a_node("target", "torch.ops.aten.__dict__.update"),
    "the target 'torch.ops.aten.add._op'": of_a_node("target", "torch.ops.aten.add._op"),
    "the target 'torch.ops.aten.warn.default'": of_a_node("target", "torch.ops.aten.warn.default"),
    "the target 'torch.ops.aten.add_.Tensor'": of_a_node("target", "torch.ops.aten.add_.Tensor"),
    "the target 'torch.ops.aten._reshape_alias.default'": of_a_node("target", "torch.ops.aten._reshape_alias.default"),
    "the target 'torch.ops.aten.embedding_dense_backward.default'": of_a_node(
        "target", "torch.ops.aten.embedding_dense_backward.default"
    ),
    "the target 'torch.sym_fresh_size'": of_a_node("target", "torch.sym_fresh_size"),
    "the target '_operator.getitem'": of_a_node("target", "_operator.getitem"),
    "the 'metadata'": of_a_node("metadata", {"stack_trace": "x"}),
    "the name 'x": name_of_an_output,
    'the name "a\'b"': of_a_node("name", "a'b"),
    "the tensor_values 'a b'": lambda r: inside(r, (*GRAPH, "tensor_values")).update({"a b": inside(r, META)}),
    "the fqn 'a\"b'": lambda r: inside(r, CALL).update(fqn='a"b'),
    "the parameter_name 'a": name_of_a_weight,
    "the 'a b'": lambda r: r[PROGRAM].update({"a b": 1}),
    "the 'as_graph'": argument({"as_graph": {"name": "a", "graph": {}}}),
    "the 'as_operator'": argument({"as_operator": "torch.load"}),
    "the 'as_custom_obj'": argument({"as_custom_obj": {"name": "a", "class_fqn": "b"}}),
    "the 'as_string_to_argument'": argument({"as_string_to_argument": {}}),
    "the as_string 'a\\nb'": argument({"as_string": "a\nb"}),
    "the as_string 'a\\\\'": argument({"as_string": "a\\"}),
    "the as_strings 'a\"b'": argument({"as_strings": ['a"b']}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_torchlift_does_not_write_is_refused(archive, tmp_path, said):
    file = tampered(archive, tmp_path / "model.pt2", REFUSED[said])
    with pytest.raises(BundleError) as caught:
        load_program(file)
    assert caught.value.message.startswith(f"model.pt2 is not opened: it has {said}")


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s0', positive=True).evalf()",
        "Symbol('s0 + 1')",
        "Symbol(Symbol)",
        "Mul('s0', 2)",
        "lambdify(s0, 1)",
        "s0 ** 99",
        "s0[0]",
        "[s0 for s0 in ()]",
        "Add(*s0)",
        "Integer(value='1')",
        "1 if s0 else 2",
        "s0.real",
        "print",
        "1 +",
        "abs(s0)",
        "exec('s0')",
        "Symbol('s0', positive=print)",
        "Symbol('print')",
        "Float('s0')",
        "Float(s0)",
        "Float('1.0', 53)",
        "Add(1, 2, evaluate=False)",
        "(1 # )\n)",
        "Add(1,\n2)",
        "Symbol('s0')\\",
    ],
)
def test_sizes_are_arithmetic(archive, tmp_path, text):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: set_sizes(records, text))
    with pytest.raises(BundleError, match="it has the expr_str"):
        load_program(file)


@pytest.mark.parametrize(
    "spec",
    [
        '[1, {"type": "collections.namedtuple", "context": "null", "children_spec": []}]',
        '[1, {"type": "builtins.tuple", "context": "os.system", "children_spec": []}]',
        '[1, {"type": "builtins.dict", "context": "[\\"a b\\"]", "children_spec": []}]',
        '[1, {"type": ["os"], "context": "null", "children_spec": []}]',
        '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "os.system"}]}]',
        '[1, {"type": "builtins.tuple", "type": "builtins.tuple", "context": "null", "children_spec": []}]',
        '[1, {"type": "builtins.tuple", "context": "null", "children_spec": {}}]',
        '["os", {"type": null, "context": null, "children_spec": []}]',
        '{"a": 1, "b": 2}',
        "1",
        "[1",
        "[" * 100_000,
    ],
)
@pytest.mark.parametrize("key", ["in_spec", "out_spec"])
def test_inputs_and_outputs_come_in_tuples(archive, tmp_path, key, spec):
    file = tampered(archive, tmp_path / "model.pt2", lambda r: inside(r, (*CALL, "signature")).update({key: spec}))
    with pytest.raises(BundleError, match=f"it has the {key}"):
        load_program(file)
