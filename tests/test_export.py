"""What an export must hold: PyTorch's answers at every shape, nothing baked in, nothing of this machine."""

import functools
import hashlib
import re
import shutil
import sys
import weakref
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from torchlift import storage
from torchlift.backends import backend
from torchlift.backends.onnxruntime import OnnxRuntimeSession
from torchlift.backends.opening import open_source
from torchlift.backends.pytorch.session import TorchSession
from torchlift.bundle import Bundle
from torchlift.errors import (
    BakedInError,
    ExportError,
    ModuleSourceError,
    NoSignalError,
    StorageError,
    VerificationError,
)
from torchlift.exporter import ExportOptions, export_component, export_key, search, writing
from torchlift.exporter.answers import answers_of as pytorch_answers
from torchlift.families.base import LoadOptions, Model
from torchlift.families.module import ModuleFamily
from torchlift.manifest import Component, Manifest
from torchlift.prove.goldens import BETWEEN, load_goldens
from torchlift.signature import CORNERS, Axis

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

NETS = Path(__file__).parent / "ship_helpers" / "nets.py"
EXPORTERS = ("dynamo", "torchscript")


@dataclass
class Exported:
    """A model with the bundle that one of its components went into."""

    model: Model
    bundle: Bundle
    component: Component

    @property
    def file(self):
        return self.bundle.file(self.component.model)

    @property
    def proto(self):
        return onnx.load(self.file)

    @property
    def operators(self):
        return Counter(node.op_type for node in self.proto.graph.node)

    def goldens(self):
        return load_goldens(self.bundle, self.component)


def load(name, **axes):
    return ModuleFamily().load(f"{NETS}:{name}", LoadOptions(axes={"": axes}))


def export_into(folder, name, exporter="dynamo", opset=None, seed=0, **axes):
    model = load(name, **axes)
    bundle = Bundle.create(folder, Manifest(model.name, model.family, model.key, dict(model.settings)))
    return Exported(model, bundle, export_component(model, "model", bundle, ExportOptions(exporter, opset, seed)))


@pytest.fixture
def export(tmp_path):
    return lambda name, *arguments, **options: export_into(tmp_path / "bundle", name, *arguments, **options)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """The network of several inputs and outputs by an exporter; not to be changed."""
    return functools.cache(
        lambda exporter: export_into(tmp_path_factory.mktemp(exporter) / "bundle", "events", exporter)
    )


@pytest.fixture(params=EXPORTERS)
def exported(request, once):
    return once(request.param)


@pytest.fixture
def by_dynamo(once):
    return once("dynamo")


def tensors(answers):
    return answers if isinstance(answers, tuple) else (answers,)


def answers_of(exported, feeds):
    """What PyTorch and ONNX Runtime answer, as arrays by output name."""
    part, names = exported.model.component("model"), list(exported.component.signature.output_names)
    with torch.inference_mode():
        expected = tensors(part.reference(*(torch.from_numpy(feeds[n]) for n in part.signature.input_names)))
    session = onnxruntime.InferenceSession(exported.file, providers=["CPUExecutionProvider"])
    found = session.run(names, feeds)
    return zip(names, [t.numpy() for t in expected], found, strict=True)


@pytest.mark.parametrize("batch", [1, 2, 6])
@pytest.mark.parametrize("events", [1, 5, 9])
def test_a_graph_of_several_inputs_and_outputs_answers_as_pytorch_at_every_corner(exported, batch, events):
    sizes = {"batch": batch, "events": events}
    feeds = exported.model.component("model").sample(sizes, np.random.default_rng(9))
    assert {n: (str(a.dtype), a.shape) for n, a in feeds.items()} == {
        "ids": ("int64", (batch, events)),
        "ratings": ("float32", (batch, events)),
    }
    for name, expected, found in answers_of(exported, feeds):
        assert found.shape == {"logits": (batch, events, 3), "mean": (batch, 16)}[name]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_graph_names_its_axes_as_the_signature_does(exported):
    graph = exported.proto.graph
    dims = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    dims |= {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.output}
    assert dims == {
        "ids": ["batch", "events"],
        "ratings": ["batch", "events"],
        "logits": ["batch", "events", 3],
        "mean": ["batch", 16],
    }


def test_all_weights_are_in_one_file_beside_the_graph_by_a_relative_name(exported, tmp_path):
    assert sorted(p.name for p in exported.file.parent.iterdir()) == [
        "goldens.safetensors",
        "model.onnx",
        "model.onnx.data",
        "stress.safetensors",
    ]
    proto = onnx.load(exported.file, load_external_data=False)
    outside = [i for i in proto.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
    assert {e.value for i in outside for e in i.external_data if e.key == "location"} == {"model.onnx.data"}
    assert sum(np.prod(i.dims) for i in outside) >= 50 * 16, "the embedding is among them"
    moved = shutil.copytree(exported.file.parent, tmp_path / "elsewhere")
    onnxruntime.InferenceSession(moved / "model.onnx", providers=["CPUExecutionProvider"])


def test_the_manifest_says_how_a_component_was_exported(exported):
    component = exported.component
    options = ExportOptions(component.exporter)
    network = exported.model.component("model").reference
    assert exported.bundle.manifest.components == (component,)
    assert component.opset == {"dynamo": 20, "torchscript": 16}[component.exporter]
    assert component.parameters == sum(p.numel() for p in network.parameters())
    assert component.key == export_key(exported.model, "model", options)
    Bundle.open(exported.bundle.path)


@pytest.mark.parametrize(
    ("exporter", "opset", "has", "lacks"),
    [
        ("dynamo", 18, {"LayerNormalization", "Erf"}, {"Gelu", "Attention"}),
        ("dynamo", 23, {"LayerNormalization", "Gelu", "Attention"}, {"Erf"}),
        ("torchscript", 16, {"Erf", "ReduceMean"}, {"LayerNormalization", "Gelu"}),
        ("torchscript", 17, {"Erf", "LayerNormalization"}, {"Gelu"}),
    ],
)
def test_the_opset_is_the_one_that_was_asked_for(export, exporter, opset, has, lacks):
    found = export("events", exporter, opset)
    assert found.component.opset == opset
    assert [o.version for o in found.proto.opset_import if not o.domain] == [opset]
    assert has <= found.operators.keys()
    assert not lacks & found.operators.keys()


def test_the_default_opset_of_dynamo_has_gelu(by_dynamo):
    assert {"LayerNormalization", "Gelu"} <= by_dynamo.operators.keys()


@pytest.mark.parametrize(
    ("exporter", "opset", "remedy"),
    [
        ("dynamo", 16, "use `exporter=torchscript`, or choose an opset from 18 to 25"),
        ("torchscript", 23, "use `exporter=dynamo`, or choose an opset from 11 to 20"),
        ("dynamo", 99, "Instead, choose an opset from 18 to 25"),
    ],
)
def test_an_opset_that_an_exporter_does_not_write_is_refused(exporter, opset, remedy):
    with pytest.raises(ExportError, match=f"the {exporter} exporter does not write opset {opset}") as caught:
        ExportOptions(exporter, opset)
    assert remedy in caught.value.remedy


def test_goldens_stand_at_min_opt_and_max_of_every_axis_with_pytorchs_answers(exported):
    goldens, part = exported.goldens(), exported.model.component("model")
    assert list(goldens) == [*CORNERS, *BETWEEN]
    for corner in CORNERS:
        assert part.signature.check(goldens[corner].inputs) == part.signature.sizes(corner)
    for name, low, high in (("low", "min", "opt"), ("high", "opt", "max")):
        for axis, size in part.signature.check(goldens[name].inputs).items():
            assert part.signature.sizes(low)[axis] <= size <= part.signature.sizes(high)[axis]
    for golden in goldens.values():
        with torch.inference_mode():
            answers = part.reference(*(torch.from_numpy(golden.inputs[n]) for n in ("ids", "ratings")))
        for name, answer in zip(("logits", "mean"), answers, strict=True):
            np.testing.assert_allclose(golden.outputs[name], answer.numpy(), rtol=0, atol=1e-6)


def test_the_seed_draws_the_goldens(tmp_path):
    def inputs(folder, seed):
        found = export_into(tmp_path / folder, "events", "torchscript", seed=seed).goldens()
        return {(corner, n): a for corner, golden in found.items() for n, a in golden.inputs.items()}

    first, same, other = inputs("first", 3), inputs("same", 3), inputs("other", 4)
    assert all(np.array_equal(first[k], same[k]) for k in first)
    assert not any(np.array_equal(first[k], other[k]) for k in first if k[0] != "min")
    assert not np.array_equal(first["min", "ratings"], other["min", "ratings"])


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_input_that_is_computed_with_may_vary(export, exporter):
    found = export("factor_used", exporter)
    for factor in (2, 7):
        feeds = {"x": np.ones((2, 4), np.float32), "factor": np.array([factor])}
        for _, _, answer in answers_of(found, feeds):
            assert (answer == factor).all()


def test_an_input_whose_value_became_a_number_is_refused_by_name(export):
    with pytest.raises(BakedInError, match="factor") as caught:
        export("factor_as_number", "torchscript")
    assert ".item()" in caught.value.remedy


@pytest.mark.parametrize("name", ["size_as_number", "positions_as_numbers", "patches_as_numbers"])
def test_a_size_that_is_a_python_number_varies_with_a_strategy_that_can(export, name):
    found = export(name)
    assert found.component.exporter != "dynamo"
    part = found.model.component("model")
    sizes = {axis.name: axis.max - 1 for axis in part.signature.axes}
    for _, expected, answer in answers_of(found, part.sample(sizes, np.random.default_rng(9))):
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_a_number_that_is_computed_from_a_value_varies_too(export):
    found = export("factor_as_number")
    for factor in (2, 7):
        for _, _, answer in answers_of(found, {"x": np.ones((2, 4), np.float32), "factor": np.array([factor])}):
            assert (answer == factor).all()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_input_that_the_network_does_not_use_may_be_given_all_the_same(export, exporter):
    found = export("factor_ignored", exporter)
    x = np.random.default_rng(0).random((3, 4), np.float32)
    for factor in (2, 7):
        for _, expected, answer in answers_of(found, {"x": x, "factor": np.array([factor])}):
            np.testing.assert_allclose(answer, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("fixed_pool", "height and width"),
        ("branch_on_a_size", "events"),
    ],
)
def test_dynamo_names_the_axis_that_turned_constant(export, name, axes):
    with pytest.raises(BakedInError, match=f"axis {axes} turned constant in the export: .*{axes.split()[0]}") as caught:
        export(name)
    assert "mark_dynamic" not in str(caught.value), "advice to authors of PyTorch helps nobody here"
    axis = next(a for a in load(name).component("model").signature.axes if a.name == axes.split()[0])
    assert f"`axes={axis.name}={axis.opt}`." in caught.value.remedy


def test_an_axis_may_be_fixed_as_the_remedy_says(export):
    found = export("size_as_number", events=Axis("events", 4, 4, 4))
    assert found.component.signature.inputs[0].shape == ("batch", "events", 8)
    assert [d.dim_param or d.dim_value for d in found.proto.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        4,
        8,
    ]


def test_all_axes_may_be_fixed_in_torchscript(export):
    found = export("events", "torchscript", batch=Axis("batch", 2, 2, 2), events=Axis("events", 1, 1, 1))
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in found.proto.graph.output]
    assert shapes == [[2, 1, 3], [2, 16]]


def test_torchscript_is_caught_where_the_graph_does_not_run_at_another_size(export):
    found = export("size_as_number", "torchscript")
    assert found.component.exporter == "torchscript-scripted"
    assert "does not run at batch 1 (traced at 3), events 1 (traced at 4)" in found.component.tried["torchscript"]


def test_torchscript_is_caught_where_an_output_has_a_constant_axis(export):
    with pytest.raises(BakedInError, match="does not run at batch 1"):
        export("positions_as_numbers", "torchscript")


@pytest.mark.parametrize(
    ("name", "corner"),
    [("fixed_pool", "min"), ("patches_as_numbers", "min")],
)
def test_torchscript_is_caught_where_the_graph_answers_otherwise_at_another_size_or_value(export, name, corner):
    with pytest.raises(VerificationError, match=f"does not answer as PyTorch does: y at {corner}: off by") as caught:
        export(name, "torchscript")
    assert "Python values or on the traced shapes" in caught.value.remedy


def test_a_branch_on_a_value_is_refused_with_its_line(export):
    with pytest.raises(BakedInError, match=r"as a Python number: nets.py, line \d+: .*if x.sum\(\) > 0") as caught:
        export("branch_on_a_value")
    assert "torch.where" in caught.value.remedy


def test_a_network_that_draws_random_numbers_is_refused(export):
    with pytest.raises(VerificationError, match=r"draws random numbers: nets.py, line \d+: .*rand_like"):
        export("random")


def test_a_network_that_answers_zero_is_refused(export):
    with pytest.raises(NoSignalError, match=r"output y is nearly zero .* for the golden min") as caught:
        export("silent")
    assert "any comparison with zeros would pass" in caught.value.remedy


def test_weights_that_are_not_numbers_are_refused(export):
    with pytest.raises(NoSignalError, match="own output y holds 1 NaN") as caught:
        export("broken_weights")
    assert "Check the weights" in caught.value.remedy


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_network_that_no_exporter_takes_is_refused_with_what_it_lacks(export, exporter):
    with pytest.raises(ExportError, match=r"bessel_j0") as caught:
        export("without_an_onnx_operator", exporter)
    assert "exporter=" not in caught.value.remedy, "all were tried"


def test_a_network_without_an_onnx_form_is_a_program_that_needs_torch(export):
    found = export("without_an_onnx_operator", None)
    component, (graph,) = found.component, found.bundle.manifest.graphs
    assert (component.model, component.exporter, graph.form) == ("", "program", "program")
    assert "bessel_j0" in component.failure
    assert "nets.py, line" in component.failure
    assert found.goldens().keys() >= {*CORNERS}
    assert Bundle.open(found.bundle.path).manifest == found.bundle.manifest
    with open_source(found.bundle, component) as session:
        x = np.random.default_rng(0).random((3, 4), np.float32)
        expected = found.model.component("model").reference(torch.from_numpy(x))[0].numpy()
        np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["a_loop_over_a_size", "branch_in_code"])
def test_control_flow_is_compiled_where_no_trace_can_be_trusted(export, name):
    found = export(name, None)
    assert found.component.exporter == "torchscript-scripted"
    for sign in (1, -1):
        x = sign * np.abs(np.random.default_rng(0).standard_normal((2, 6, 4))).astype(np.float32)
        for _, expected, answer in answers_of(found, {"x": x}):
            np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("exporter", "said"), [("dynamo", "steps"), ("torchscript", "steps|branch on a size")])
@pytest.mark.parametrize("name", ["windows", "square"])
def test_a_branch_on_a_size_that_no_golden_takes_is_not_traced_for_one_side(export, monkeypatch, name, exporter, said):
    monkeypatch.setattr(torch.jit, "script", lambda network: 1 / 0)
    with pytest.raises((BakedInError, VerificationError), match=said):
        export(name, exporter)


def test_a_trace_that_assumes_a_size_counts_where_it_is_right_at_all_sizes(export):
    found = export("kept_positions", "dynamo")
    for steps in (2, 3, 20, 31):
        x = np.zeros((2, steps, 4), np.float32)
        for _, expected, answer in answers_of(found, {"x": x}):
            np.testing.assert_array_equal(answer, expected)
            np.testing.assert_array_equal(answer[0, :, 0], np.arange(steps))


def test_a_trace_that_assumes_a_size_is_refused_where_not_all_sizes_were_compared(export, monkeypatch):
    monkeypatch.setattr(search, "sweep", lambda *given: False)
    with pytest.raises(BakedInError, match="steps"):
        export("kept_positions", "dynamo")


def test_a_branch_around_a_scripted_layer_is_not_traced_for_one_side(export):
    found = export("partly_scripted", "torchscript")
    assert found.component.exporter == "torchscript-scripted"
    for level in (0, 5):
        for _, expected, answer in answers_of(found, {"x": np.full((1, 3, 4), level, np.float32)}):
            np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)


def test_sizes_between_the_goldens_are_compared_too(export):
    with pytest.raises((VerificationError, BakedInError), match=r"batch 2.*steps \d+"):
        export("rescaled", "torchscript")


def test_a_branch_that_no_golden_takes_is_not_traced_for_one_side(export):
    found = export("branch_that_no_golden_takes", "torchscript")
    assert found.component.exporter == "torchscript-scripted"
    x = np.full((1, 2, 4), 1e4, np.float32)
    for _, expected, answer in answers_of(found, {"x": x}):
        np.testing.assert_array_equal(expected, 2 * x + 1)
        np.testing.assert_array_equal(answer, expected)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_output_may_have_a_size_that_follows_from_axes(export, exporter):
    found = export("doubled", exporter)
    assert found.component.signature.outputs[0].shape == ("batch", "2 * events")
    for _, expected, answer in answers_of(found, {"x": np.random.default_rng(0).random((5, 7), np.float32)}):
        assert answer.shape == (5, 14)
        np.testing.assert_array_equal(answer, expected)


def test_a_network_that_writes_into_its_input_does_not_spoil_the_goldens(export):
    found = export("writes_into_its_input", "torchscript")
    for golden in found.goldens().values():
        np.testing.assert_allclose(golden.outputs["y"], 2 * (golden.inputs["x"] + 1), rtol=1e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_network_in_training_mode_is_exported_as_it_evaluates(export, exporter):
    found = export("in_training", exporter)
    assert not {"Dropout", "RandomUniformLike", "Bernoulli"} & found.operators.keys()
    network = found.model.component("model").reference
    assert not any(module.training for module in network.modules())
    x = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    twice = [[(e, a) for _, e, a in answers_of(found, {"x": x})] for _ in range(2)]
    np.testing.assert_array_equal(twice[0][0][0], twice[1][0][0])
    np.testing.assert_allclose(twice[0][0][1], twice[0][0][0], rtol=0, atol=1e-5)
    nets = next(module for name, module in sys.modules.items() if name.startswith("_torchlift_user_nets"))
    torch.manual_seed(0)
    trained = nets.in_training().eval()
    with torch.inference_mode():
        np.testing.assert_allclose(twice[0][0][0], trained(torch.from_numpy(x)).numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_numbers_without_dimensions_go_in_and_come_out_of_every_runtime(export, tmp_path, exporter):
    found = export("scaled", exporter)
    signature = found.component.signature
    assert (signature.inputs[1].shape, signature.outputs[1].shape) == ((), ())
    part = found.model.component("model")
    feeds = part.sample({"batch": 2}, np.random.default_rng(3))
    assert feeds["factor"].shape == ()
    sessions = [TorchSession(part.reference, signature)]
    for name in ("onnxruntime", "openvino"):
        folder = tmp_path / name
        folder.mkdir()
        runtime = backend(name)
        sessions.append(runtime.open(folder / runtime.build(found.file, folder, signature), signature))
    for session in sessions:
        answers = session.run(feeds)
        session.prepare(feeds)()
        assert {n: a.shape for n, a in answers.items()} == {"y": (2, 4), "square": ()}, session.runtime
        np.testing.assert_allclose(answers["y"], feeds["x"] * feeds["factor"], rtol=1e-6)
        np.testing.assert_allclose(answers["square"], feeds["factor"] ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "said", "remedy"),
    [
        (
            "six_positions",
            r"does not run at batch 1, events 7: IndexError: index out of range",
            "Lower .*events=1..4..4",
        ),
        ("deep_pooling", r"does not run at batch 1, height 2, width 9: RuntimeError", "Raise .*height=9..9..12"),
    ],
)
def test_a_network_that_does_not_hold_what_its_ranges_promise_is_refused_with_the_sizes(export, name, said, remedy):
    with pytest.raises(ModuleSourceError, match=said) as caught:
        export(name)
    assert re.search(remedy, caught.value.remedy)


def test_a_network_without_axes_that_fails_is_refused_with_the_sizes(export, monkeypatch):
    def forward(self, *inputs, **keywords):
        raise ValueError("never at this size")

    model = load("tiny", batch=Axis("batch", 2, 2, 2))
    monkeypatch.setattr(torch.nn.Sequential, "forward", forward)
    bundle = model.component("model")
    with pytest.raises(ExportError, match="does not run at batch 2: ValueError: never at this size") as caught:
        pytorch_answers(bundle, bundle.sample({"batch": 2}, np.random.default_rng(0)))
    assert "Correct the network" in caught.value.remedy


OUT_OF_MEMORY = [
    MemoryError("Unable to allocate 8.00 GiB for an array"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("Failed to allocate memory for requested buffer of size 8589934592"),
    RuntimeError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("where", ["pytorch", "onnxruntime"])
def test_too_little_memory_is_not_put_down_to_the_network(export, monkeypatch, error, where):
    def fails(*arguments, **keywords):
        raise error

    if where == "onnxruntime":
        monkeypatch.setattr(OnnxRuntimeSession, "_run", fails)
        with pytest.raises(ExportError, match="the memory does not suffice at batch 1: ") as caught:
            export("tiny")
    else:
        part = load("tiny").component("model")
        monkeypatch.setattr(torch.nn.Sequential, "forward", fails)
        with pytest.raises(ExportError, match="the memory does not suffice at batch 1: ") as caught:
            pytorch_answers(part, part.sample({"batch": 1}, np.random.default_rng(0)))
    assert not isinstance(caught.value, BakedInError)
    assert "more memory" in caught.value.remedy


def test_an_opset_other_than_the_one_asked_for_is_refused(export, monkeypatch):
    write = writing._torchscript
    monkeypatch.setattr(
        writing,
        "_torchscript",
        lambda part, arguments, opset, folder, strategy: write(part, arguments, opset + 1, folder, strategy),
    )
    with pytest.raises(ExportError, match="opset 16 was asked for, the torchscript exporter wrote opset 17") as caught:
        export("tiny", "torchscript")
    assert "`opset=17`" in caught.value.remedy


def test_where_one_exporter_fails_the_next_is_tried(export, monkeypatch):
    write = torch.onnx.export
    monkeypatch.setattr(
        torch.onnx, "export", lambda *a, dynamo, **options: None if dynamo else write(*a, dynamo=dynamo, **options)
    )
    found = export("tiny", None)
    assert (found.component.exporter, found.component.opset) == ("torchscript", 16)
    with pytest.raises(ExportError, match="the exporter returned nothing"):
        export("two_sizes", "dynamo")


def test_the_first_strategy_that_is_proven_counts(export, monkeypatch):
    tried = []
    write = search.write_onnx

    def writing_wrongly(part, file, strategy, opset, seed):
        tried.append(strategy.name)
        symbolic = write(part, file, strategy, opset, seed)
        if len(tried) == 1:
            spoil(file)
        return symbolic

    monkeypatch.setattr(search, "write_onnx", writing_wrongly)
    found = export("tiny", None)
    assert tried == ["dynamo", "dynamo-free"]
    assert found.component.exporter == "dynamo-free"


def spoil(file):
    """Change what a graph computes."""
    model = onnx.load(file)
    last = next(node for node in model.graph.node if node.output[0] == "y")
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["y"]))
    (file.parent / "model.onnx.data").unlink(missing_ok=True)
    onnx.save(model, file)


def test_a_seed_is_not_negative():
    with pytest.raises(ExportError, match="the seed -1 is negative") as caught:
        ExportOptions(seed=-1)
    assert caught.value.remedy == "Use 0 or more."


def test_the_opset_zero_is_not_the_default():
    with pytest.raises(ExportError, match="do not write opset 0"):
        ExportOptions(opset=0)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_weights_are_let_go_before_the_file_is_proven(tmp_path, monkeypatch, exporter):
    """A family that reads its weights when a component is asked for holds none of them itself."""
    alive = []

    class Lazy(Model):
        name, family, settings, assets, key, component_names = "lazy", "module", {}, {}, "key", ("model",)

        def component(self, name, *, attention="sdpa"):
            part = load("events").component("model")
            network = Events()
            alive.append(weakref.ref(network.items.weight))
            return replace(part, reference=network, exported=network, inner="")

    prove = search.prove_answers

    def proving(*arguments):
        assert alive.pop()() is None
        prove(*arguments)

    Events = type(load("events").component("model").reference.network)
    monkeypatch.setattr(search, "prove_answers", proving)
    bundle = Bundle.create(tmp_path / "bundle", Manifest("lazy", "module", "key", {}))
    export_component(Lazy(), "model", bundle, ExportOptions(exporter))
    assert not alive


@pytest.mark.parametrize(("exporter", "copies"), [("dynamo", 1), ("torchscript", 2)])
def test_the_space_for_all_copies_of_the_weights_is_asked_for(tmp_path, monkeypatch, exporter, copies):
    asked = []
    monkeypatch.setattr(search, "require_space", lambda folder, size: asked.append((folder, size)))
    export_into(tmp_path / "bundle", "tiny", exporter)
    assert asked == [(tmp_path / "bundle", copies * 4 * (4 * 16 + 16 + 16 * 3 + 3))]


def test_torchscript_writes_its_own_file_within_the_bundle(export, tmp_path, monkeypatch):
    written = []
    write = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **options: (written.append(a[2]), write(*a, **options))[1])
    found = export("tiny", "torchscript")
    assert tmp_path / "bundle" in written[0].parents
    assert sorted(p.name for p in found.file.parent.iterdir()) == [
        "goldens.safetensors",
        "model.onnx",
        "model.onnx.data",
        "stress.safetensors",
    ]


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("name", ["fixed_pool", "branch_on_a_value", "silent"])
def test_a_failed_export_leaves_an_older_bundle_whole_and_no_temporary_folder(exported, tmp_path, name):
    bundle = Bundle.open(shutil.copytree(exported.bundle.path, tmp_path / "copy"))
    before = contents(bundle.path)
    with pytest.raises((ExportError, VerificationError)):
        export_component(load(name), "model", bundle, ExportOptions("torchscript"))
    assert contents(bundle.path) == before
    assert {p.name for p in bundle.path.iterdir()} == {"manifest.json", "model"}
    assert {p.name for p in (bundle.path / "model").iterdir()} == {"source"}
    assert Bundle.open(bundle.path).manifest.components == (exported.component,)


def test_an_export_replaces_what_was_exported_before(exported, tmp_path):
    bundle = Bundle.open(shutil.copytree(exported.bundle.path, tmp_path / "copy"))
    component = export_component(load("tiny"), "model", bundle, ExportOptions("torchscript"))
    assert bundle.manifest.components == (component,)
    assert set(contents(bundle.path)) == {*bundle.manifest.files, "manifest.json"}
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_a_bundle_on_a_full_disk_is_refused_before_the_export(export, monkeypatch):
    monkeypatch.setattr(storage, "free_space", lambda folder: 100)
    with pytest.raises(StorageError, match="are needed") as caught:
        export("tiny")
    assert "another disk" in caught.value.remedy


def test_nothing_of_the_machine_is_in_the_exported_files(exported):
    places = {str(NETS), str(NETS.parents[2]), str(exported.bundle.path.parent), sys.prefix, torch.__path__[0]}
    telltale = [place.encode() for place in places] + [b"site-packages", b"nets.py", str(Path.home()).encode() + b"/"]
    for file in exported.bundle.path.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert not [t for t in telltale if t in data], file


def test_only_module_scopes_are_left_of_what_exporters_note(exported):
    metadata = {entry.key for message in messages(exported.proto) for entry in getattr(message, "metadata_props", ())}
    scopes = {"pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"}
    assert metadata == (scopes if exported.component.exporter == "dynamo" else set())
    assert not [m.doc_string for m in messages(exported.proto) if getattr(m, "doc_string", "")]


def messages(message):
    """A protobuf message and all that it holds, at any depth."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") else [value]:
                yield from messages(part)


def test_nodes_lead_back_to_their_modules(by_dynamo):
    scopes = {
        node.op_type: {p.key: p.value for p in node.metadata_props}.get("pkg.torch.onnx.name_scopes", "")
        for node in by_dynamo.proto.graph.node
    }
    assert "norm" in scopes["LayerNormalization"]
    assert "items" in scopes["Gather"]


def test_the_key_of_an_export_follows_the_model_the_component_and_every_option():
    model, other = load("tiny"), load("two_sizes")
    keys = [
        export_key(model, "model", ExportOptions()),
        export_key(other, "model", ExportOptions()),
        export_key(model, "another", ExportOptions()),
        export_key(model, "model", ExportOptions("torchscript")),
        export_key(model, "model", ExportOptions(opset=18)),
        export_key(model, "model", ExportOptions(seed=1)),
    ]
    assert len({*keys}) == len(keys)
    assert keys[0] == export_key(load("tiny"), "model", ExportOptions())


@pytest.mark.parametrize("name", ["torchlift", "torch", "onnx-ir", "onnxscript", "transformers"])
def test_the_key_of_an_export_follows_the_releases_of_its_makers(monkeypatch, name):
    model, versions = load("tiny"), search.installed_version
    before = export_key(model, "model", ExportOptions())
    assert versions(name)
    monkeypatch.setattr(search, "installed_version", lambda n: "99.0" if n == name else versions(n))
    assert export_key(model, "model", ExportOptions()) != before
