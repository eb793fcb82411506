"""A graph that never ends is ended, wherever it would run; one that has no loop pays nothing for that."""

import shutil

import looping
import pytest
import tiny

from torchlift.backends import apart, opening
from torchlift.backends.apart import SessionApart
from torchlift.backends.opening import open_source
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, BundleError, SignatureError
from torchlift.prove import ends
from torchlift.prove.ends import require_end
from torchlift.prove.verify import verify_variant
from torchlift.stages import build_variant
from torchlift.stages.convert import convert_component
from torchlift.stages.samples import goldens_as_samples


@pytest.fixture(scope="module")
def looping_once(tmp_path_factory):
    """A bundle whose graph has a loop that ends, with a variant; not to be changed."""
    bundle = looping.make_bundle(tmp_path_factory.mktemp("looping") / "ends")
    build_variant(bundle, bundle.manifest.component("model"), "onnxruntime")
    return bundle


@pytest.fixture
def looping_copy(looping_once, tmp_path):
    return Bundle.open(shutil.copytree(looping_once.path, tmp_path / "looping"))


@pytest.fixture
def endless(tmp_path):
    """A bundle whose graph never ends, without variants."""
    return looping.make_bundle(tmp_path / "endless", ends=False)


@pytest.fixture
def impatient(monkeypatch):
    """Opening and each answer may take some seconds."""
    monkeypatch.setattr(apart, "PATIENCE", 2.0)


def test_a_graph_with_a_loop_is_run_apart_and_agrees(looping_once):
    variant = looping_once.manifest.variant("model/onnxruntime/fp32")
    assert looping_once.may_loop(variant)
    assert verify_variant(looping_once, variant).failures == ()
    component = looping_once.manifest.component("model")
    with open_source(looping_once, component) as session:
        assert isinstance(session, SessionApart)
        assert session.runtime.startswith("onnxruntime ")
        assert session.run({"x": tiny.sample(2)})["y"].shape == (2, tiny.OUTPUTS)
        with pytest.raises(SignatureError):
            session.run({"x": tiny.sample(20)})
    with pytest.raises(BackendError, match="closed"):
        session.run({"x": tiny.sample(2)})


def test_a_graph_without_a_loop_is_run_in_this_process(bundle, monkeypatch):
    monkeypatch.setattr(opening, "SessionApart", None)
    monkeypatch.setattr(ends, "load_goldens", None)
    component = bundle.manifest.component("model")
    require_end(bundle, component)
    with open_source(bundle, component) as session:
        assert session.run({"x": tiny.sample(2)})["y"].shape == (2, tiny.OUTPUTS)


def test_nothing_is_built_or_converted_of_a_graph_that_never_ends(endless, impatient):
    component = endless.manifest.component("model")
    for job in (
        lambda: build_variant(endless, component, "onnxruntime"),
        lambda: convert_component(endless, component, ["fp16"], goldens_as_samples(endless)),
    ):
        with pytest.raises(BackendError, match="the graph of model did not answer for 2 seconds"):
            job()
    assert endless.manifest.variants == endless.manifest.graphs == ()


def test_a_variant_that_never_ends_fails_its_verification(looping_copy, endless, impatient):
    variant = looping_copy.manifest.variant("model/onnxruntime/fp32")
    shutil.copyfile(endless.file(endless.manifest.component("model").model), looping_copy.file(variant.model))
    (failure,) = verify_variant(looping_copy, variant).failures
    assert failure.kind == "error"
    assert "model/onnxruntime/fp32 did not answer for 2 seconds" in failure.detail


def test_a_source_that_ended_is_not_run_again_to_see_that(looping_once, monkeypatch):
    monkeypatch.setattr(ends, "open_source", None)
    require_end(looping_once, looping_once.manifest.component("model"))


def test_a_process_that_dies_is_an_error(looping_once):
    with open_source(looping_once, looping_once.manifest.component("model")) as session:
        session._process.kill()
        with pytest.raises(BackendError, match="the process of the graph of model died"):
            session.run({"x": tiny.sample(2)})


@pytest.mark.parametrize("mark", [b'type="Loop"', b'type="TensorIterator"', b'type="&#76;oop"'])
def test_loops_of_openvino_are_seen(built, mark):
    variant = built.manifest.variant("model/openvino/fp32")
    assert not built.may_loop(variant)
    file = built.file(variant.model)
    file.write_bytes(file.read_bytes().replace(b'type="ReLU"', mark))
    assert built.may_loop(variant)


# what is no sound graph


def change(bundle, edit):
    """Change the source graph of the tiny bundle."""
    proto = tiny.model()
    edit(proto)
    bundle.file(bundle.manifest.component("model").model).write_bytes(proto.SerializeToString())


def circle(proto):
    proto.graph.node[0].input[0] = "sum"


def twice(proto):
    proto.graph.node[1].output[0] = "product"


def same_names(proto):
    proto.graph.node[1].name = proto.graph.node[0].name


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda proto: proto.graph.ClearField("node"), "0 nodes"),
        (lambda proto: proto.graph.ClearField("output"), "0 outputs"),
        (lambda proto: proto.ClearField("opset_import"), "no opset"),
        (lambda proto: proto.ClearField("graph"), "0 nodes"),
        (lambda proto: proto.graph.initializer.append(proto.graph.initializer[0]), "'matrix' is there twice"),
        (lambda proto: proto.graph.input.append(proto.graph.input[0]), "'x' is there twice"),
        (lambda proto: setattr(proto.graph.output[0], "name", "z"), "nothing writes its output 'z'"),
        (circle, "reads 'sum', which nothing before it writes"),
        (twice, "'product' is written twice"),
        (same_names, "two nodes are called 'product'"),
    ],
)
def test_a_graph_that_is_not_sound_is_refused(bundle, edit, said):
    change(bundle, edit)
    with pytest.raises(BundleError, match=r"model/source/model\.onnx is no sound graph") as caught:
        bundle.model(bundle.manifest.component("model"))
    assert said in caught.value.message


def test_what_is_within_a_loop_must_be_sound_too(looping_copy):
    proto = looping.model()
    proto.graph.node[0].attribute[0].g.node[1].input[1] = "matrix"  # of the graph around it
    file = looping_copy.file(looping_copy.manifest.component("model").model)
    file.write_bytes(proto.SerializeToString())
    assert looping_copy.model(looping_copy.manifest.component("model"))
    proto.graph.node[0].attribute[0].g.node[1].input[1] = "product"  # written later
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(BundleError, match="reads 'product'"):
        looping_copy.model(looping_copy.manifest.component("model"))
