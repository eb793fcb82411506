"""A user's own network: what its file and its function may be, and what is found out about it."""

import linecache
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torchlift.declare.answers import Labels
from torchlift.errors import ModuleSourceError, SignatureError
from torchlift.families.base import LoadOptions
from torchlift.families.module import ModuleFamily
from torchlift.families.module.model import _summary
from torchlift.signature import CORNERS, Axis, TensorSpec

EXAMPLES = Path(__file__).parents[2] / "examples"
HEAD = """
import torch
from torch import nn
import torchlift as tl

class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
"""
ONE = HEAD + "    def forward(self, x):\n        return self.function(x)\n"
TWO = HEAD + "    def forward(self, ids, weight=1):\n        return self.function(ids, weight)\n"
ROWS = 'inputs=[tl.TensorSpec("x", "float32", ("batch", 4))], axes=[tl.Axis("batch", 1, 4, 8)]'
SEQUENCES = (
    'inputs=[tl.TensorSpec("x", "float32", ("batch", "events"))], '
    'axes=[tl.Axis("batch", 1, 4, 8), tl.Axis("events", 2, 5, 9)]'
)


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    """Users' files are imported by name from their folder: forget both."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if not name.startswith(("torch", "transformers", "numpy")):
            del sys.modules[name]


@pytest.fixture
def load(tmp_path):
    """Write a file and load the network that its function ``build`` makes."""

    def load(text, function="build", name="net.py", **axes):
        (tmp_path / name).write_text(text)
        return ModuleFamily().load(f"{tmp_path / name}:{function}", LoadOptions(axes={"": axes} if axes else {}))

    return load


@pytest.fixture
def refused(load):
    """The error that loading a file ends with: its message and its remedy."""

    def refused(text, error=ModuleSourceError, **options):
        with pytest.raises(error) as caught:
            load(text, **options)
        return caught.value.message, caught.value.remedy

    return refused


def signature(model):
    return model.component("model").signature


def declared(function, outputs='["y"]', takes=ROWS, more=""):
    return ONE + f"\n@tl.module({takes}, outputs={outputs}{more})\ndef build():\n    return Function({function})\n"


def with_examples(examples, function="lambda x: 2 * x", head=ONE):
    return head + f"\ndef build():\n    return Function({function}), {examples}\n"


# Where the network is.


def test_a_file_and_a_function_in_a_relative_folder(tmp_path, monkeypatch):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "mine.py").write_text(declared("lambda x: 2 * x"))
    monkeypatch.chdir(tmp_path)
    model = ModuleFamily().load("nets/mine.py:build", LoadOptions())
    assert (model.name, model.family, model.component_names, model.assets) == ("mine.build", "module", ("model",), {})


def test_a_file_may_import_its_neighbours(tmp_path, load):
    (tmp_path / "the_neighbour.py").write_text(ONE)
    load(f"from the_neighbour import *\n@tl.module({ROWS}, outputs=['y'])\ndef build(): return Function(torch.tanh)\n")


@pytest.mark.parametrize("source", ["net.py", "net.py:", "net.py:not a name", ":build", ""])
def test_a_source_without_a_function_is_refused(source):
    with pytest.raises(ModuleSourceError, match="names no function") as caught:
        ModuleFamily().load(source, LoadOptions())
    assert repr(source) in caught.value.message
    assert caught.value.remedy == "Write path/to/file.py:function."


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ModuleSourceError, match=r"nowhere\.py does not exist"):
        ModuleFamily().load(f"{tmp_path}/nowhere.py:build", LoadOptions())


def test_a_file_that_is_not_python_is_refused(refused):
    message, remedy = refused("a: 1", name="net.yaml")
    assert message.endswith("net.yaml is not a Python file")
    assert "file.py:function" in remedy


def test_a_missing_function_is_refused_with_those_that_there_are(refused):
    message, remedy = refused(ONE + "def make(): ...\ndef train(): ...\n")
    assert "has no function 'build'" in message
    assert remedy == "Its functions are make, train."


def test_a_file_without_functions_says_so(refused):
    assert refused("build = 3\n")[1] == "Its functions are none."


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("import a_package_that_is_not_there", "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
        ("def build(:", "SyntaxError"),
        ("raise ValueError('no checkpoint at /data')", "ValueError: no checkpoint at /data"),
        ("import sys; sys.exit('usage: net.py DATA')", "SystemExit: usage: net.py DATA"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused_with_the_cause(refused, text, cause):
    message, remedy = refused(text)
    assert "net.py cannot be imported: " in message
    assert cause in message
    assert remedy == "Run it with python to see where."


def test_a_function_that_fails_is_refused_with_the_cause(refused):
    message, remedy = refused("def build(): raise FileNotFoundError('weights.pt')")
    assert message == "build in net.py failed: FileNotFoundError: weights.pt"
    assert "called without arguments" in remedy


def test_a_function_with_parameters_is_refused(refused):
    message, remedy = refused("def build(path): ...")
    assert "missing 1 required positional argument: 'path'" in message
    assert "called without arguments" in remedy


@pytest.mark.parametrize(
    ("returned", "kind"), [("None", "NoneType"), ("{'weights': 1}", "dict"), ("(1, 2, 3)", "tuple")]
)
def test_a_function_that_returns_no_module_is_refused(refused, returned, kind):
    message, remedy = refused(f"def build(): return {returned}")
    assert message == f"build in net.py returned {kind}"
    assert "must return an nn.Module" in remedy


def test_a_module_whose_inputs_are_not_stated_is_refused(refused):
    message, remedy = refused("from torch import nn\ndef build(): return nn.Linear(2, 2)")
    assert message == "nothing says what the network takes"
    assert "torchlift.module(inputs=...)" in remedy


# Example inputs.


@pytest.mark.parametrize(
    "examples", ["torch.ones(3, 4)", "(torch.ones(3, 4),)", "[torch.ones(3, 4)]", "{'x': torch.ones(3, 4)}"]
)
def test_a_single_example_names_and_batches_its_input(load, examples):
    found = signature(load(with_examples(examples)))
    assert found.inputs == (TensorSpec("x", "float32", ("batch", 4)),)
    assert found.outputs == (TensorSpec("output0", "float32", ("batch", 4)),)
    assert found.axes == (Axis("batch", 1, 8, 64),)


@pytest.mark.parametrize(
    "examples",
    [
        "(torch.tensor([[3, 7], [1, 5]]), torch.ones(2, 1))",
        "{'weight': torch.ones(2, 1), 'ids': torch.tensor([[3, 7], [1, 5]])}",
    ],
)
def test_several_examples_are_in_the_order_of_forward(load, examples):
    model = load(with_examples(examples, "lambda ids, weight: (ids * weight, ids > 2)", TWO))
    assert signature(model).inputs == (
        TensorSpec("ids", "int64", ("batch", 2)),
        TensorSpec("weight", "float32", ("batch", 1)),
    )
    assert [(o.name, o.dtype, o.shape) for o in signature(model).outputs] == [
        ("output0", "float32", ("batch", 2)),
        ("output1", "bool", ("batch", 2)),
    ]
    drawn = model.component("model").sample({"batch": 500}, np.random.default_rng(0))["ids"]
    assert (drawn.min(), drawn.max()) == (1, 7), "the values that the examples have"


def test_what_is_served_may_go_beyond_the_values_of_the_examples(load):
    found = signature(load(with_examples("torch.tensor([[3, 7], [1, 5]])", "nn.Embedding(100, 2)")))
    assert found.check({"x": np.array([[0, 99]])}) == {"batch": 1}


@pytest.mark.parametrize("values", ["[[3, 7], [1, 5]]", "[[3, 8], [1, 5]]"])
def test_the_values_of_the_examples_are_in_the_key(load, tmp_path, values):
    """What is drawn depends on them, wherever they come from and whether the answers show it or not."""
    text = "import json\n" + with_examples("torch.tensor(json.load(open(VALUES)))", "lambda x: x * 0 + 1.5")
    (tmp_path / "values.json").write_text("[[3, 7], [1, 5]]")
    text = text.replace("VALUES", repr(str(tmp_path / "values.json")))
    before = load(text).key
    (tmp_path / "values.json").write_text(values)
    assert (load(text).key == before) is (values == "[[3, 7], [1, 5]]")


def test_a_parameter_with_a_default_needs_no_example(load):
    model = load(with_examples("torch.tensor([[3, 7]])", "lambda ids, weight: ids * 2.0 * weight", TWO))
    assert signature(model).input_names == ("ids",)


def test_examples_that_share_no_first_dimension_have_no_batch(load):
    found = signature(load(with_examples("(torch.ones(3, 4), torch.tensor(2.0))", "lambda x, k: x * k", TWO)))
    assert [s.shape for s in found.inputs] == [(3, 4), ()]
    assert found.axes == ()


@pytest.mark.parametrize(("value", "shown"), [("2", "2"), ("0.5", "0.5"), ("[1, 2]", "1")])
def test_a_python_value_among_the_examples_is_refused_by_name(refused, value, shown):
    message, remedy = refused(with_examples(f"(torch.ones(3, 4), {value})", "lambda x, k: x", TWO))
    assert message.startswith("the example input weight")
    assert message.endswith(f"is the Python value {shown}: it would be baked into the graph")
    assert "torch.tensor(...)" in remedy


def test_a_long_python_value_among_the_examples_is_cut_to_one_line(refused):
    odd = "type('Odd', (), {'__repr__': lambda self: 500 * 'value\\n'})()"
    message, _ = refused(TWO + f"def build():\n    return Function(None), (torch.ones(2), {odd})\n")
    assert "is the Python value value value" in message
    assert len(message) < 250
    assert "\n" not in message


def test_a_python_value_as_the_only_example_is_refused(refused):
    assert "the example input x is the Python value 3" in refused(with_examples("3"))[0]


@pytest.mark.parametrize(
    ("examples", "head", "message"),
    [
        ("(torch.ones(3), torch.ones(3))", ONE, "2 example inputs are given, and forward(x) takes 1"),
        ("{'y': torch.ones(3)}", ONE, "the example inputs name y, and forward(x) has no such parameter"),
        ("{'weight': torch.ones(3)}", TWO, "forward(ids, weight) needs ids, and no such input is given"),
    ],
)
def test_examples_that_do_not_fit_forward_are_refused(refused, examples, head, message):
    assert refused(with_examples(examples, head=head))[0] == message


# What a declaration leads to.


def test_every_axis_that_an_output_follows_is_found(load):
    function = "lambda x: (x, x.t(), x.sum(1), x.sum(0), x.sum(), x[:1])"
    outputs = signature(load(declared(function, "list('abcdef')", SEQUENCES))).outputs
    assert [o.shape for o in outputs] == [
        ("batch", "events"),
        ("events", "batch"),
        ("batch",),
        ("events",),
        (),
        (1, "events"),
    ]


def test_sizes_that_follow_from_axes_are_expressions_and_those_of_values_stay_open(load):
    function = "lambda x: (torch.cat([x, x], 1), x[:, :-1], x.flatten(), x[:, ::2], x[x > 0])"
    outputs = signature(load(declared(function, "list('abcde')", SEQUENCES))).outputs
    assert [o.shape for o in outputs] == [
        ("batch", "2 * events"),
        ("batch", "events - 1"),
        ("batch * events",),
        ("batch", "(events + 1) // 2"),
        (None,),
    ]


def test_a_size_that_looks_constant_at_two_lengths_is_followed_over_the_whole_range(load):
    takes = SEQUENCES.replace('"events", 2, 5, 9', '"events", 8, 40, 400')
    outputs = signature(load(declared("lambda x: x[:, ::8]", takes=takes))).outputs
    assert outputs[0].shape == ("batch", "(events + 7) // 8")


@pytest.mark.parametrize("axis", [Axis("batch", 1, 1, 2), Axis("batch", 1, 2, 2), Axis("batch", 7, 8, 8)])
def test_an_axis_of_two_sizes_is_found_in_the_outputs(load, axis):
    assert signature(load(declared("lambda x: 2 * x"), batch=axis)).outputs[0].shape == ("batch", 4)


def test_outputs_keep_their_dtype(load):
    outputs = signature(load(declared("lambda x: (x.argmax(1), x > 0, x.int())", "list('abc')"))).outputs
    assert [o.dtype for o in outputs] == ["int64", "bool", "int32"]


@pytest.mark.parametrize(
    ("function", "outputs", "said"),
    [
        ("lambda x: (x, x)", '["y"]', "the network returns 2 tensors (output0, output1), 1 outputs are declared: y"),
        ("lambda x: x", '["y", "z"]', "the network returns 1 tensors (output0), 2 outputs are declared: y, z"),
    ],
)
def test_a_wrong_number_of_outputs_is_refused(refused, function, outputs, said):
    message, remedy = refused(declared(function, outputs))
    assert message == said
    assert "Name every tensor" in remedy


@pytest.mark.parametrize(
    ("function", "names", "returns"),
    [
        ("lambda x: {'y': x, 'h': (x, [x])}", ["y", "h.0", "h.1.0"], {"y": "y", "h": ["h.0", ["h.1.0"]]}),
        ("lambda x: [x]", ["output0"], ["output0"]),
        ("lambda x: (x, None, (x, x))", ["output0", "output2.0", "output2.1"], None),
        ("lambda x: {'x': x}", ["x_out"], {"x": "x_out"}),
        ("lambda x: Pair(x, x + 1)", ["first", "second"], {"first": "first", "second": "second"}),
        ("lambda x: Named(x, None)", ["first"], {"first": "first", "second": None}),
        ("lambda x: (x, x.shape[1])", ["output0", "output1"], ["output0", "output1"]),
    ],
)
def test_nested_answers_are_named_by_their_keys(load, function, names, returns):
    head = ONE + (
        "\nimport collections, dataclasses\n@dataclasses.dataclass\nclass Pair:\n    first: object\n"
        "    second: object\nNamed = collections.namedtuple('Named', 'first second')\n"
    )
    text = head + f"\n@tl.module({ROWS})\ndef build():\n    return Function({function})\n"
    part = load(text).component("model")
    assert list(part.signature.output_names) == names
    assert returns in (None, part.call.returns)
    assert len(part.reference(torch.ones(2, 4))) == len(names)


def test_some_of_the_outputs_are_chosen_by_their_names(load):
    function = "lambda x: {'logits': 2 * x, 'cache': object(), 'hidden': x}"
    part = load(declared(function, '["hidden", "logits"]')).component("model")
    assert part.signature.output_names == ("hidden", "logits")
    assert part.call.returns == {"logits": "logits", "cache": None, "hidden": "hidden"}
    hidden, logits = part.reference(torch.ones(2, 4))
    assert torch.equal(logits, 2 * hidden)


def test_what_holds_no_tensor_is_left_out_with_a_note(load):
    text = ONE + f"\n@tl.module({ROWS})\ndef build():\n    return Function(lambda x: {{'y': x, 'cache': object()}})\n"
    model = load(text)
    assert signature(model).output_names == ("y",)
    assert len(model.notes) == 1
    assert "cache" in model.notes[0]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("lambda x: None", "returns no tensor"),
        ("lambda x: 'yes'", "returns no tensor"),
        ("lambda x: torch.fft.fft(x)", "complex"),
        ("lambda x: x.bfloat16()", "bfloat16"),
    ],
)
def test_answers_that_no_bundle_has_are_refused_by_name(refused, function, said):
    text = ONE + f"\n@tl.module({ROWS})\ndef build():\n    return Function({function})\n"
    assert said in refused(text)[0]


# How inputs are passed.


THREE = HEAD + (
    "    def forward(self, ids, mask=None, *, types=None, state=None):\n"
    "        return self.function(ids, mask, types, state)\n"
)


def three(inputs, function, batch='("batch", 4)'):
    specs = ", ".join(f'tl.TensorSpec("{name}", "float32", {batch})' for name in inputs)
    return (
        THREE + f'\n@tl.module(inputs=[{specs}], axes=[tl.Axis("batch", 1, 4, 8)])\n'
        f"def build():\n    return Function({function})\n"
    )


def test_inputs_are_bound_by_name_in_any_order(load):
    part = load(three(["types", "ids", "mask"], "lambda i, m, t, s: i + 10 * m + 100 * t")).component("model")
    types, ids, mask = torch.full((1, 4), 3.0), torch.full((1, 4), 1.0), torch.full((1, 4), 2.0)
    assert part.signature.input_names == ("types", "ids", "mask")
    assert part.call.parameters == ("ids", "mask", "types", "state")
    assert part.reference(types, ids, mask)[0].unique().item() == 321


def test_names_that_are_no_parameters_are_bound_by_position(load):
    part = load(three(["a", "b"], "lambda i, m, t, s: i - m")).component("model")
    assert part.reference(torch.full((1, 4), 5.0), torch.full((1, 4), 2.0))[0].unique().item() == 3


def test_names_of_which_only_some_are_parameters_are_refused(refused):
    message, remedy = refused(three(["ids", "masks"], "lambda i, m, t, s: i"))
    assert "masks" in message
    assert "or none of them" in remedy


def test_parts_of_a_parameter_are_inputs_by_their_path(load):
    part = load(three(["ids", "state.0", "state.1"], "lambda i, m, t, s: i + 10 * s[0] + 100 * s[1]")).component(
        "model"
    )
    one, two, three_ = (torch.full((1, 4), float(n)) for n in (1, 2, 3))
    assert part.reference(one, two, three_)[0].unique().item() == 321


def test_examples_may_be_nested_and_hold_plain_values(load):
    function = "lambda i, m, t, s: i + s['h'][0] if m else i - s['h'][0]"
    text = THREE + (
        f"\ndef build():\n    x = torch.ones(3, 4)\n"
        f"    return Function({function}), {{'state': {{'h': (x, x)}}, 'ids': x, 'mask': True}}\n"
    )
    part = load(text).component("model")
    assert part.signature.input_names == ("ids", "state.h.0", "state.h.1")
    assert part.reference(torch.ones(2, 4), torch.ones(2, 4), torch.ones(2, 4))[0].unique().item() == 2


def test_a_parameter_without_an_input_is_refused(refused):
    assert "needs ids" in refused(three(["mask"], "lambda i, m, t, s: i"))[0]


def test_an_image_classifier_and_a_text_model_need_no_inputs_and_no_axes(load, tmp_path):
    model = load(
        "import torch\nfrom torch import nn\nimport torchlift as tl\n"
        "@tl.module(preprocess={'pixels': tl.ImageInput((8, 8))}, postprocess={'output0': tl.Labels('ab')})\n"
        "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))\n"
    )
    found = signature(model)
    assert found.inputs == (TensorSpec("pixels", "float32", ("batch", 3, 8, 8)),)
    assert found.axes == (Axis("batch", 1, 8, 64),)


def test_ids_have_the_bounds_of_their_embedding(load):
    takes = ROWS.replace('"float32"', '"int64"')
    found = signature(load(declared("nn.Embedding(9, 2)", takes=takes)))
    assert found.inputs[0].bounds == (0, 9)


# What cannot be taken as it is.


@pytest.mark.parametrize("wrapped", ["torch.nn.DataParallel(nn.Linear(4, 4))", "torch.compile(nn.Linear(4, 4))"])
def test_wrappers_are_taken_off(load, wrapped):
    text = HEAD + f"\n@tl.module({ROWS})\ndef build():\n    return {wrapped}\n"
    part = load(text).component("model")
    assert type(part.reference.network) is torch.nn.Linear


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear})", "converted to INT8"),
        ("with_buffer(torch.eye(4).to_sparse())", "sparse"),
        ("nn.Linear(4, 4, device='meta')", "meta"),
        ("nn.LazyLinear(4)", "lazy"),
    ],
)
def test_what_has_no_plain_form_is_refused_by_name(refused, made, said):
    text = HEAD + (
        "\ndef with_buffer(tensor):\n    net = nn.Linear(4, 4)\n    net.register_buffer('table', tensor)\n"
        f"    return net\n\n@tl.module({ROWS})\ndef build():\n    return {made}\n"
    )
    assert said in refused(text)[0]


def test_a_network_that_does_not_run_on_what_is_declared_is_refused_with_the_shapes(refused):
    message, remedy = refused(declared("nn.Linear(5, 2)"))
    assert "does not run on x [4, 4]: RuntimeError: mat1 and mat2 shapes cannot be multiplied" in message
    assert "sample=" in remedy


def test_whole_numbers_without_bounds_are_refused(refused):
    text = declared("lambda x: x * 1.5", takes=ROWS.replace("float32", "int64"))
    message, remedy = refused(text, SignatureError)
    assert message == "input x is int64[batch, 4] and states no bounds"
    assert "bounds=(low, high)" in remedy


def test_whole_numbers_are_drawn_within_their_bounds(load):
    takes = ROWS.replace('"float32", ("batch", 4)', '"int32", ("batch", 4), bounds=(3, 6)')
    model = load(declared("lambda x: x * 1.5", takes=takes))
    drawn = model.component("model").sample({"batch": 200}, np.random.default_rng(0))["x"]
    assert drawn.dtype == np.int32
    assert {*drawn.flat} == {3, 4, 5}


@pytest.mark.parametrize(
    ("dtype", "bounds", "drawn"),
    [
        ("int64", (0.5, 2.5), {1, 2}),
        ("int32", (-1.5, 0.5), {-1, 0}),
        ("uint8", (254, 1000), {254, 255}),
        ("int8", (-1000, -127), {-128}),
        ("int64", (2**63 - 2, 2**70), {2**63 - 2, 2**63 - 1}),
    ],
)
def test_whole_numbers_are_drawn_within_bounds_that_are_none_or_are_beyond_their_type(load, dtype, bounds, drawn):
    takes = ROWS.replace('"float32", ("batch", 4)', f'"{dtype}", ("batch", 4), bounds={bounds}')
    model = load(declared("lambda x: x * 1.5", takes=takes))
    found = model.component("model").sample({"batch": 8}, np.random.default_rng(0))
    assert {*found["x"].flat} == drawn
    assert signature(model).check(found) == {"batch": 8}


@pytest.mark.parametrize(("dtype", "bounds"), [("int64", (0.2, 0.8)), ("int8", (200, 300))])
def test_bounds_that_hold_no_whole_number_of_the_type_are_refused(refused, dtype, bounds):
    takes = ROWS.replace('"float32", ("batch", 4)', f'"{dtype}", ("batch", 4), bounds={bounds}')
    message, remedy = refused(declared("lambda x: x * 1.5", takes=takes), SignatureError)
    assert f"input x is {dtype}[batch, 4] with the bounds {bounds}" in message
    assert "high exclusive" in remedy


def test_what_is_too_large_to_draw_is_refused_before_it_is_drawn(refused):
    more = ", sample=lambda sizes, rng: 1 / 0"
    message, _ = refused(declared("lambda x: x", more=more), SignatureError, batch=Axis("batch", 2**28, 2**28, 2**28))
    assert message == "input x: float32[batch, 4] takes 4.0 GiB where its axes are at their optimum"


def test_an_output_that_is_empty_whatever_goes_in_is_taken_for_computed(load):
    (found,) = signature(load(declared("lambda x: x[:0]"))).outputs
    assert found.shape == (None, 4)


def test_real_numbers_are_drawn_within_their_bounds(load):
    takes = ROWS.replace('("batch", 4)', '("batch", 4), bounds=(5, 6)')
    drawn = (
        load(declared("lambda x: x", takes=takes)).component("model").sample({"batch": 50}, np.random.default_rng(0))
    )
    assert drawn["x"].dtype == np.float32
    assert drawn["x"].min() >= 5
    assert drawn["x"].max() <= 6


def test_a_sampler_of_ones_own_draws_the_inputs(load):
    more = ", sample=lambda sizes, rng: {'x': np.full((sizes['batch'], 4), 7 + rng.random(), np.float32)}"
    model = load("import numpy as np\n" + declared("lambda x: x", more=more))
    drawn = model.component("model").sample({"batch": 3}, np.random.default_rng(0))["x"]
    assert drawn.shape == (3, 4)
    assert (drawn >= 7).all()


@pytest.mark.parametrize(
    ("more", "message", "remedy"),
    [
        (
            ", postprocess={'genre': tl.Labels(('a', 'b'))}",
            "what is declared does not fit: 'genre' is declared, and there is no such output",
            "The outputs are y.",
        ),
        (
            ", preprocess={'image': tl.ImageInput((8, 8))}",
            "image is declared, and forward(x) has no such parameter, while it has x",
            "Name every input as the parameter that takes it, or none of them: then they go by position.",
        ),
    ],
)
def test_processing_of_a_tensor_that_there_is_not_is_refused(refused, more, message, remedy):
    assert refused(declared("lambda x: x", more=more)) == (message, remedy)


@pytest.mark.parametrize(
    ("network", "example", "shape"),
    [
        ("nn.LSTM(4, 2)", "torch.rand(5, 3, 4)", (5, "batch", 4)),
        ("nn.LSTM(4, 2)", "torch.zeros(5, 3, 4)", (5, "batch", 4)),
        ("nn.LSTM(4, 2, batch_first=True)", "torch.rand(5, 3, 4)", ("batch", 3, 4)),
        ("nn.Linear(4, 2)", "torch.rand(1, 3, 4)", ("batch", 3, 4)),
        ("Function(lambda x: x - x.mean())", "torch.rand(5, 3)", (5, 3)),
        ("Function(lambda x: x.sum(1))", "torch.rand(3, 3)", ("batch", 3)),
    ],
)
def test_the_batch_of_examples_is_the_dimension_whose_rows_are_independent(load, network, example, shape):
    model = load(with_examples(f"({example},)").replace("Function(lambda x: 2 * x)", network))
    assert signature(model).inputs[0].shape == shape


def test_what_is_bound_by_position_is_known_by_the_networks_own_name_too(load):
    takes = ROWS.replace('"x"', '"degrees"')
    assert load(declared("lambda x: x", takes=takes)).component("model").call.renamed == {"x": "degrees"}


def test_a_parameter_that_only_a_keyword_reaches_is_named(refused):
    takes = ROWS.replace('"x"', '"degrees"')
    keyed = "\nclass Keyed(nn.Module):\n    def forward(self, *, a):\n        return a\n"
    source = declared("", takes=takes).replace("Function()", "Keyed()")
    message, remedy = refused(source + keyed)
    assert message == "1 inputs are declared (degrees), and forward(a) takes 0 by position"
    assert remedy == "Name each input as the parameter that takes it: a."


def test_what_is_declared_goes_into_the_component(load):
    model = load(declared("lambda x: x", more=", postprocess={'y': tl.Labels(tuple('abcd'), top=2)}"))
    assert model.component("model").answers == {"y": Labels(("a", "b", "c", "d"), top=2)}
    assert (model.pipeline, model.settings, model.assets) == ("tensors", {}, {})


def test_a_network_is_float32_in_eval_mode_and_without_gradients(load):
    network = load(declared("nn.Sequential(nn.Linear(4, 4).double(), nn.Dropout(0.5))")).component("model").reference
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(m.training for m in network.modules())


# Ranges and keys.


def test_ranges_may_be_replaced(load):
    axes = signature(load(declared("lambda x: x", takes=SEQUENCES), events=Axis("events", 3, 4, 6))).axes
    assert axes == (Axis("batch", 1, 4, 8), Axis("events", 3, 4, 6))


def test_ranges_may_be_replaced_for_the_component_by_name(tmp_path):
    (tmp_path / "net.py").write_text(declared("lambda x: x"))
    axes = {"model": {"batch": Axis("batch", 2, 2, 2)}, "": {"batch": Axis("batch", 1, 1, 1)}}
    model = ModuleFamily().load(f"{tmp_path}/net.py:build", LoadOptions(axes=axes))
    assert signature(model).axes == (Axis("batch", 2, 2, 2),)


@pytest.mark.parametrize(
    ("scope", "axis", "said", "remedy"),
    [
        ("", "btach", "the model has no axis 'btach'", "Its axes are batch."),
        ("image", "batch", "axes are stated for a component 'image'", "The components are model."),
    ],
)
def test_a_range_for_an_axis_that_there_is_not_is_refused(tmp_path, scope, axis, said, remedy):
    (tmp_path / "net.py").write_text(declared("lambda x: x"))
    options = LoadOptions(axes={scope: {axis: Axis(axis, 1, 2, 3)}})
    with pytest.raises(SignatureError, match=said) as caught:
        ModuleFamily().load(f"{tmp_path}/net.py:build", options)
    assert caught.value.remedy == remedy


def test_the_same_source_has_the_same_key(load):
    text = declared("nn.Linear(4, 2)")
    assert load(text).key == load(text).key, "weights are drawn from a fixed seed"


def test_changed_weights_have_another_key(load, tmp_path):
    (tmp_path / "net.py").write_text("")
    text = declared("torch.load(WEIGHTS, weights_only=False)").replace("WEIGHTS", repr(str(tmp_path / "weights.pt")))
    keys = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        torch.save(torch.nn.Linear(4, 2), tmp_path / "weights.pt")
        keys.append(load(text).key)
    assert keys[0] == keys[1] != keys[2]


def test_a_change_of_a_neighbour_that_defines_a_module_has_another_key(load, tmp_path):
    keys = []
    for factor in (2, 3):
        (tmp_path / "the_parts.py").write_text(ONE.replace("self.function(x)", f"{factor} * self.function(x)"))
        sys.modules.pop("the_parts", None)
        text = f"from the_parts import *\n@tl.module({ROWS}, outputs=['y'])\ndef build(): return Function(torch.tanh)\n"
        keys.append(load(text).key)
    assert keys[0] != keys[1]


HELPERS = """
import torch
def fill(network):
    network.factor = 2.0
    network.register_buffer("shift", torch.zeros(4), persistent=False)
def helper(network, x): return network.factor * x + network.shift
"""
HELPED = f"""
import sys
sys.modules.pop("the_helpers", None)
import torch, torchlift as tl
from torch import nn
from the_helpers import fill, helper
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        fill(self)
    def forward(self, x): return helper(self, x)
@tl.module({ROWS}, outputs=["y"])
def build(): return Net()
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [("= 2.0", "= 2.1"), ("torch.zeros", "torch.ones"), ("network.factor * x", "network.factor * x.abs()")],
    ids=["a plain attribute", "a buffer outside the state_dict", "a helper in another file"],
)
def test_what_no_weight_holds_is_in_the_key(load, tmp_path, monkeypatch, before, after):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    keys = []
    for content in (HELPERS, HELPERS, HELPERS.replace(before, after)):
        (tmp_path / "the_helpers.py").write_text(content)
        keys.append(load(HELPED).key)
    assert keys[0] == keys[1] != keys[2]


def test_declared_outputs_are_in_the_key(load):
    assert load(declared("lambda x: x")).key != load(declared("lambda x: x", '["z"]')).key


def test_the_source_of_the_sampler_is_in_the_key(load, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    text = "from the_draws import draw\n" + declared("lambda x: x", more=", sample=draw")
    keys = []
    for rows in ("sizes['batch']", "sizes['batch']", "int(sizes['batch'])"):
        content = f"import numpy as np\ndef draw(sizes, rng): return {{'x': np.ones(({rows}, 4), np.float32)}}\n"
        (tmp_path / "the_draws.py").write_text(content)
        sys.modules.pop("the_draws", None)
        linecache.checkcache()
        keys.append(load(text).key)
    assert keys[0] == keys[1] != keys[2]


def test_a_sampler_without_source_has_a_key(load):
    more = ", sample=partial(lambda sizes, rng: {'x': np.ones((sizes['batch'], 4), np.float32)})"
    assert load("import numpy as np\nfrom functools import partial\n" + declared("lambda x: x", more=more)).key


def test_answers_that_differ_in_the_last_digits_are_the_same_in_the_key():
    answer = torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    assert _summary(answer) == _summary(answer * (1 + 1e-7))
    assert len({_summary(a) for a in (answer, 1.01 * answer, -answer, answer.flip(0), answer.T, answer.double())}) == 6


def test_a_network_elsewhere_is_brought_to_the_processor(load):
    load(
        "MOVED = []\n"
        + declared("torch.tanh").replace("\n@tl", "    def cpu(self): MOVED.append(self); return super().cpu()\n\n@tl")
    )
    files = (module for name, module in sys.modules.items() if name.startswith("_torchlift_user_net_"))
    (own,) = (module for module in files if hasattr(module, "MOVED"))
    assert len(own.MOVED) == 1


def test_a_sampler_may_return_numbers(load):
    takes = 'inputs=[tl.TensorSpec("x", "float32", ())]'
    model = load(
        "import numpy as np\n"
        + declared("lambda x: 2 * x", takes=takes, more=", sample=draw").replace(
            "\n@tl", "\ndef draw(sizes, rng): return {'x': np.float32(3)}\n@tl"
        )
    )
    assert signature(model).outputs[0].shape == ()
    assert isinstance(model.component("model").sample({}, np.random.default_rng(0))["x"], np.ndarray)


def test_another_range_function_or_file_has_another_key(load):
    text = declared("lambda x: x")
    twice = text + "\nother = build\n"
    keys = [
        load(text).key,
        load(text, batch=Axis("batch", 1, 2, 3)).key,
        load(twice).key,
        load(twice, function="other").key,
    ]
    assert len({*keys}) == 4


def test_the_example_of_a_recommender_loads():
    model = ModuleFamily().load(f"{EXAMPLES}/recommender/net.py:build", LoadOptions())
    found = signature(model)
    assert found.input_names == ("history", "ratings", "candidate")
    assert [(o.name, o.shape) for o in found.outputs] == [("score", ("batch",)), ("genre", ("batch", 8))]
    part = model.component("model")
    for corner in CORNERS:
        sizes = found.sizes(corner)
        feeds = part.sample(sizes, np.random.default_rng(0))
        assert found.check(feeds) == sizes
        score, genre = part.reference(*map(torch.from_numpy, feeds.values()))
        assert score.shape == (sizes["batch"],)
        assert genre.abs().max() > 0.1
    assert part.answers["genre"].top == 3


def test_a_sample_that_fails_says_at_which_sizes(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "import torch, torchlift as tl\n"
        "@tl.module(inputs=[tl.TensorSpec('x', 'float32', ('batch', 2))], outputs=['y'],\n"
        "           axes=[tl.Axis('batch', 1, 4, 8)], sample=lambda sizes, rng: {'x': rng.nothing()})\n"
        "def build(): return torch.nn.Linear(2, 2)\n"
    )
    with pytest.raises(ModuleSourceError, match=r"sample= failed at \{'batch': 4\}: AttributeError") as caught:
        ModuleFamily().load(f"{file}:build", LoadOptions())
    assert "numpy Generator" in caught.value.remedy
