"""Which graphs are made of a component's own, what is kept of an earlier run, and what stays in FP32."""

import shutil

import gated
import numpy as np
import onnx
import pytest
import tiny
from staged import Recorder, component_of

from torchlift.backends import backend
from torchlift.bundle import Bundle
from torchlift.convert.calibration import CalibrationOptions
from torchlift.errors import DataError, InputError, StorageError
from torchlift.evidence import Calibration
from torchlift.graph.scales import Scales, save_scales
from torchlift.stages import ConvertOptions, convert_component
from torchlift.stages.convert import kept_nodes
from torchlift.stages.samples import Samples

NODE_BY_NODE = ["fp16", "int8-u8s8", "int8-s8s8", "int8-dynamic"]
MODULES = {"widen", "louden", "fragile", "head"}
"""Those that multiply by a weight, but for the convolution."""

STEM = "it reads the input itself, where integers lose most and gain least"
ASKED = "it was asked to stay"


def given(key="a", batches=None, **options):
    return Samples("noise", key, lambda component: batches or gated.feeds(**options), given=True)


def nothing_given():
    def refuse(component):
        raise AssertionError("INT8 is calibrated on what was given for that, and on nothing else")

    return Samples("the goldens", "goldens", refuse)


def convert(bundle, forms, samples, options=None, progress=None):
    """The graphs of a bundle after a run, by form."""
    convert_component(bundle, component_of(bundle), forms, samples, options, progress or Recorder())
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    return {graph.form: graph for graph in bundle.manifest.graphs}


def operators(bundle, graph):
    """Operator -> how often, of a graph in a bundle."""
    nodes = [node.op_type for node in onnx.load(bundle.file(graph.model), load_external_data=False).graph.node]
    return {name: nodes.count(name) for name in nodes}


def quantized_ranges(bundle, graph):
    """The range that each QuantizeLinear of a uint8 graph covers."""
    model = onnx.load(bundle.file(graph.model))
    values = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = float(values[node.input[1]]), int(values[node.input[2]])
            found.append((-zero * scale, (255 - zero) * scale))
    return found


def answers(bundle, graph, images, recipe="int8"):
    signature = component_of(bundle).signature
    with backend("onnxruntime").open(bundle.file(graph.model), signature, recipe) as session:
        return session.run({"image": images})["logits"]


def right(bundle, graph, images):
    """The share of pictures that a graph puts into the class of the FP32 graph."""
    signature = component_of(bundle).signature
    with backend("onnxruntime").open(bundle.file(component_of(bundle).model), signature) as session:
        expected = session.run({"image": images})["logits"]
    return np.mean(answers(bundle, graph, images).argmax(1) == expected.argmax(1))


@pytest.fixture(scope="module")
def converted_once(exported, tmp_path_factory):
    """The classifier with a graph of every form that is made node by node; not to be changed."""
    bundle = Bundle.open(shutil.copytree(exported("build"), tmp_path_factory.mktemp("converted") / "bundle"))
    convert(bundle, NODE_BY_NODE, given())
    return bundle


@pytest.fixture
def converted(converted_once, tmp_path):
    return Bundle.open(shutil.copytree(converted_once.path, tmp_path / "converted"))


def test_every_form_says_what_was_converted_and_what_its_ranges_are_from(converted_once):
    done = {graph.form: graph.conversion for graph in converted_once.manifest.graphs}
    assert done.keys() == {*NODE_BY_NODE}
    assert (done["fp16"].converted, done["fp16"].candidates, done["fp16"].kept) == (6, 6, ())
    for form in NODE_BY_NODE[1:]:
        assert (done[form].converted, done[form].candidates) == (4, 5)
    assert [(k.operator, k.module, k.reason) for k in done["int8-u8s8"].kept] == [("Conv", "conv", STEM)]
    assert [k.reason for k in done["int8-dynamic"].kept] == ["int8-dynamic has no Conv"]
    assert done["int8-dynamic"].calibration is None, "it finds its ranges as it runs"
    assert done["int8-u8s8"].calibration == Calibration(8, "noise", "minmax")
    assert done["fp16"].share == 1
    assert done["int8-s8s8"].share == 0.8


def test_the_graphs_hold_what_their_forms_say(converted_once):
    found = {graph.form: operators(converted_once, graph) for graph in converted_once.manifest.graphs}
    assert found["int8-u8s8"]["QuantizeLinear"] == found["int8-s8s8"]["QuantizeLinear"] == 4
    assert found["int8-dynamic"]["MatMulInteger"] == 4
    types = {
        i.data_type
        for graph in converted_once.manifest.graphs
        if graph.form == "fp16"
        for i in onnx.load(converted_once.file(graph.model), load_external_data=False).graph.initializer
    }
    assert onnx.TensorProto.FLOAT16 in types
    assert onnx.TensorProto.FLOAT not in types


def test_the_source_is_no_form_to_convert_to(colours):
    assert convert(colours, ["fp32"], given()) == {}


# what cannot be made


def test_a_form_that_cannot_be_made_is_kept_as_a_failure_and_the_others_are_made(colours):
    def broken(component):
        raise DataError("picture 3 has no end", remedy="Copy it again.")

    graphs = convert(colours, ["int8-u8s8", "int8-dynamic"], Samples("pictures", "a", broken, given=True))
    failed = graphs["int8-u8s8"]
    assert (failed.failure, failed.files, failed.model, failed.conversion) == ("picture 3 has no end", (), "", None)
    assert graphs["int8-dynamic"].conversion.converted == 4
    assert not list(colours.path.rglob("*u8s8*")), "nothing of it is left"


def test_samples_that_do_not_fit_the_graph_are_named_in_the_failure(colours):
    flat = [{"image": np.zeros((8, 3, 16), np.float32)}]
    graphs = convert(colours, ["fp16"], given(batches=flat))
    assert "rank" in graphs["fp16"].failure
    assert str(colours.path) not in graphs["fp16"].failure


def test_what_failed_is_tried_again(colours):
    flat = [{"image": np.zeros((8, 3, 16), np.float32)}]
    assert convert(colours, ["fp16"], given(batches=flat))["fp16"].failure
    assert not convert(colours, ["fp16"], given())["fp16"].failure


def test_a_full_disk_ends_the_conversion(colours, monkeypatch):
    monkeypatch.setattr("torchlift.storage.free_space", lambda folder: 10)
    with pytest.raises(StorageError, match="are needed"):
        convert(colours, ["int8-dynamic"], given())
    assert colours.manifest.graphs == ()


# what is kept of an earlier run


def test_what_was_made_of_the_same_samples_is_kept(converted):
    before, recorder = converted.manifest, Recorder()
    convert(converted, NODE_BY_NODE, given(), progress=recorder)
    assert converted.manifest == before
    assert recorder.titles == []


def test_other_samples_make_the_graphs_anew(converted):
    before = {graph.form: graph for graph in converted.manifest.graphs}
    after = convert(converted, ["int8-u8s8"], given("b", scale=0.1))
    assert after["int8-u8s8"].key != before["int8-u8s8"].key
    assert after["fp16"] == before["fp16"], "it was not asked for"
    (low, high), *_ = quantized_ranges(converted, after["int8-u8s8"])
    assert -0.1 <= low < high <= 0.1, "the first layer reads means, which are as small as the samples"
    assert not converted.file(before["int8-u8s8"].model).exists()


@pytest.mark.parametrize(
    "options",
    [ConvertOptions(CalibrationOptions("entropy")), ConvertOptions(keep=("model:head",))],
    ids=["another calibrator", "a node to keep"],
)
def test_other_options_make_the_graphs_anew(converted, options):
    before = converted.manifest.graph("model", "int8-u8s8")
    recorder = Recorder()
    after = convert(converted, ["int8-u8s8"], given(), options, recorder)["int8-u8s8"]
    assert after.key != before.key
    assert recorder.titles[0] == "convert model to int8-u8s8"


def test_without_samples_the_graphs_that_are_there_are_the_best_there_are(converted):
    before, recorder = converted.manifest, Recorder()
    convert(converted, NODE_BY_NODE, nothing_given(), progress=recorder)
    assert converted.manifest == before
    assert recorder.titles == []


# what stays in FP32


@pytest.mark.parametrize(
    ("pattern", "modules"),
    [
        ("fragile", {"fragile"}),
        ("node_linear_3", {"head"}),
        ("*den", {"louden", "widen"}),
        ("[fw]*", {"fragile", "widen"}),
    ],
)
def test_what_is_to_stay_is_named_by_node_by_module_or_by_a_pattern(colours, pattern, modules):
    options = ConvertOptions(keep=(f"model:{pattern}",))
    done = convert(colours, ["int8-u8s8"], given(), options)["int8-u8s8"].conversion
    assert {k.module for k in done.kept if k.reason == ASKED} == modules
    assert done.converted == 4 - len(modules)


def test_where_everything_is_to_stay_nothing_is_made(colours):
    graphs = convert(colours, ["int8-u8s8", "fp16"], given(), ConvertOptions(keep=("model:*",)))
    for graph in graphs.values():
        assert graph.failure
        assert graph.model == ""


def test_a_module_to_keep_takes_all_below_it_along(tmp_path):
    file = nested(tmp_path)
    assert kept_nodes(file, ["encoder"]) == dict.fromkeys(["a", "b"], ASKED)
    assert kept_nodes(file, ["encoder.layers.1"]) == {"b": ASKED}
    assert kept_nodes(file, ["encoder.layers"]) == dict.fromkeys(["a", "b"], ASKED)
    assert kept_nodes(file, ["encoders", "a"]) == dict.fromkeys(["c", "a"], ASKED)
    assert kept_nodes(file, []) == {}


def nested(folder):
    """A graph of three nodes, of modules within modules."""
    scopes = {"a": "encoder.layers.0", "b": "encoder.layers.1", "c": "encoders"}
    nodes = [
        onnx.helper.make_node("Relu", [source], [target], name=target)
        for source, target in zip(("x", "a", "b"), scopes, strict=True)
    ]
    for node in nodes:
        path = ["", scopes[node.name], "relu"]
        node.metadata_props.append(onnx.StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=repr(path)))
    x, c = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in ("x", "c"))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [c])), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("encoder.layer.1", "Did you mean encoder.layers.1?"),
        ("xyz*", "Name it as `torchlift bisect` prints it."),
        ("", "Name it as"),
    ],
)
def test_a_name_that_is_not_there_is_refused_with_the_nearest(tmp_path, pattern, remedy):
    with pytest.raises(InputError, match="no node and no module is called") as caught:
        kept_nodes(nested(tmp_path), ["encoder", pattern])
    assert repr(pattern) in caught.value.message
    assert remedy in caught.value.remedy


def test_patterns_are_of_their_component_alone(colours):
    options = ConvertOptions(keep=("image:fragile", "model:head"))
    assert options.patterns("model") == ("head",)
    done = convert(colours, ["int8-dynamic"], given(), options)["int8-dynamic"].conversion
    assert {k.module for k in done.kept if k.reason == ASKED} == {"head"}


# networks that were trained for INT8


def with_scales(bundle, scales):
    """A bundle as it is exported of a network that was trained with fake quantisation."""
    folder = bundle.file(component_of(bundle).model).parent
    save_scales(folder, scales)
    file = folder / "scales.json"
    bundle.commit(bundle.manifest, {file.relative_to(bundle.path).as_posix(): tiny.record_of(file)})
    return bundle


TRAINED = {
    "widen": Scales(input=(-0.5, 0.5)),
    "louden": Scales(input=(-1.0, 1.0)),
    "fragile": Scales(input=(-2.0, 2.0)),
    "head": Scales(input=(-1.0, 1.0)),
}


def test_int8_takes_the_scales_of_training_and_needs_no_samples(colours):
    graph = convert(with_scales(colours, TRAINED), ["int8-u8s8"], nothing_given())["int8-u8s8"]
    assert (graph.conversion.converted, graph.conversion.calibration) == (4, None)
    found = quantized_ranges(colours, graph)
    for scales, (low, high) in zip(TRAINED.values(), found, strict=True):
        assert (low, high) == pytest.approx(scales.input, rel=0.02)


def test_the_scales_of_training_are_better_than_the_ranges_of_samples_where_those_are_loud(colours, converted_once):
    images = gated.images()[:16]
    calibrated = converted_once.manifest.graph("model", "int8-u8s8")
    assert right(converted_once, calibrated, images) < 0.8
    graph = convert(with_scales(colours, TRAINED), ["int8-u8s8"], nothing_given())["int8-u8s8"]
    assert right(colours, graph, images) == 1


def test_what_training_left_out_is_calibrated(colours):
    some = {name: TRAINED[name] for name in ("widen", "fragile")}
    graph = convert(with_scales(colours, some), ["int8-u8s8"], given())["int8-u8s8"]
    assert graph.conversion.converted == 4
    assert (graph.conversion.calibration.samples, graph.conversion.calibration.source) == (8, "noise")
    found = quantized_ranges(colours, graph)
    assert found[2] == pytest.approx((-2.0, 2.0), rel=0.02)
    assert found[3] != pytest.approx((-1.0, 1.0), rel=0.02)


def test_what_neither_training_nor_samples_give_a_range_stays_fp32(colours):
    some = {name: TRAINED[name] for name in ("widen", "head")}
    done = convert(with_scales(colours, some), ["int8-u8s8"], nothing_given())["int8-u8s8"].conversion
    assert done.converted == 2
    kept = {k.module: k.reason for k in done.kept}
    assert kept["fragile"] == kept["louden"] == "neither training nor calibration gave a range"


def test_a_network_of_which_only_the_weights_were_trained_for_int8_gets_just_that(colours):
    weights = {name: Scales(weight=np.float32(4.0)) for name in MODULES}
    graph = convert(with_scales(colours, weights), ["int8-s8s8"], nothing_given())["int8-s8s8"]
    assert graph.conversion.converted == 4
    found = operators(colours, graph)
    assert found["DequantizeLinear"] == 4
    assert "QuantizeLinear" not in found


# NNCF


def test_nncf_makes_a_graph_of_its_own(colours):
    pytest.importorskip("nncf")
    graph = convert(colours, ["int8-nncf"], given())["int8-nncf"]
    assert graph.failure == ""
    assert graph.model.endswith("model.xml")
    assert colours.file(graph.model).with_suffix(".bin").is_file()
    assert (graph.conversion.calibration.samples, graph.conversion.calibration.source) == (8, "noise")
    assert graph.conversion.candidates == 0, "it does not say what it did to which node"


def test_nodes_to_keep_hold_later_too_at_the_ranges_that_are_there(colours):
    made = convert(colours, NODE_BY_NODE[1:3], given())
    options = ConvertOptions(keep=("model:fragile",))
    later = convert(colours, NODE_BY_NODE[1:3], nothing_given(), options)
    for form, graph in later.items():
        assert "fragile" in {node.module for node in graph.conversion.kept}
        assert graph.conversion.converted == made[form].conversion.converted - 1
        assert graph.conversion.calibration == made[form].conversion.calibration
    assert convert(colours, NODE_BY_NODE[1:3], nothing_given(), options) == later


def test_a_graph_that_cannot_be_made_again_stays_as_it_was(colours, monkeypatch):
    made = convert(colours, ["int8-s8s8"], given("a"))

    def fail(*_, **__):
        raise DataError("the samples are gone", remedy="Give others.")

    recorder = Recorder()
    monkeypatch.setattr("torchlift.convert.forms.calibrate", fail)
    assert convert(colours, ["int8-s8s8"], given("b"), progress=recorder) == made
    assert recorder.notes == ["model/int8-s8s8 stays as it was: the samples are gone"]
