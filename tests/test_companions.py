"""What a runtime would read besides a model is known before any runtime sees the model."""

import dataclasses

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from torchlift.backends import backend
from torchlift.bundle import Bundle
from torchlift.companions import companions
from torchlift.errors import BackendError, BundleError
from torchlift.prove.verify import verify_variant


def external(location, name="w"):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    return tensor


def with_initializer(tensor):
    model = tiny.model()
    model.graph.initializer.append(tensor)
    return model


def with_node(tensor):
    model = tiny.model()
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    return model


def with_subgraph(tensor):
    inner = helper.make_graph([], "inner", [], [], [tensor])
    model = tiny.model()
    model.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner))
    return model


def with_function(tensor):
    model = tiny.model()
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    model.functions.append(helper.make_function("own", "F", [], ["c"], [node], [helper.make_opsetid("", 20)]))
    return model


def with_sparse(tensor):
    model = tiny.model()
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [4]))
    return model


PLACES = [with_initializer, with_node, with_subgraph, with_function, with_sparse]


def beside(model):
    return companions("image/source/model.onnx", lambda path: model.SerializeToString())


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_found_wherever_a_model_may_have_them(place):
    assert beside(place(external("w.data"))) == {"image/source/w.data"}
    assert beside(tiny.model()) == set()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["../w", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "*/_ORT_MEM_ADDR_/*", None])
def test_weights_outside_the_folder_of_the_model_are_refused(place, location):
    with pytest.raises(BundleError) as caught:
        beside(place(external(location)))
    assert "image/source/model.onnx" in caught.value.message


def test_two_locations_of_one_tensor_are_refused():
    tensor = external("a")
    tensor.external_data.add(key="location", value="b")
    with pytest.raises(BundleError, match="no single location"):
        beside(with_initializer(tensor))


def test_what_another_compiler_made_is_refused():
    model = tiny.model()
    model.graph.node.append(helper.make_node("EPContext", ["x"], ["c"], "n", domain="com.microsoft"))
    with pytest.raises(BundleError, match="'n' loads what another compiler made"):
        beside(model)


@pytest.mark.parametrize("content", [b"\xff" * 20, b"PK\3\4 and more", b"\x08\xff\xff", b"", b"\n <?xml?><net/>"])
def test_what_is_no_onnx_is_refused(content):
    with pytest.raises(BundleError, match="cannot be read as ONNX"):
        companions("model.onnx", lambda path: content)


def test_a_model_of_openvino_has_its_weights_beside_it():
    assert companions("a/model.xml", lambda path: b"<net/>") == {"a/model.bin"}


@pytest.mark.parametrize("text", ['<!DOCTYPE x [<!ENTITY e "e">]><net/>', '<!ENTITY e SYSTEM "/etc/passwd">'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
def test_entities_are_refused(text, encoding):
    with pytest.raises(BundleError, match="document type"):
        companions("a/model.xml", lambda path: text.encode(encoding))


@pytest.mark.parametrize("name", ["m.ONNX", "m.pb", "m.ort", "m.bin", "m", "m.onnx.", "m.tflite", "m.pdmodel"])
def test_a_model_of_a_kind_that_is_not_known_is_refused(name):
    with pytest.raises(BundleError, match="no model of a kind that is known"):
        companions(f"a/{name}", lambda path: tiny.model().SerializeToString())


def test_onnx_under_the_name_of_openvino_is_refused():
    with pytest.raises(BundleError, match="no graph of OpenVINO"):
        companions("a/model.xml", lambda path: with_initializer(external(".h")).SerializeToString())


@pytest.mark.parametrize(("name", "file"), [("onnxruntime", "m.xml"), ("openvino", "m.onnx"), ("pytorch", "m.onnx")])
def test_a_backend_opens_no_model_of_another(name, file, tmp_path):
    with pytest.raises(BackendError, match=f"opens no {file}"):
        backend(name).open(tmp_path / file, tiny.SIGNATURE)


def test_other_models_are_single_files_and_are_not_read():
    def read(path):
        pytest.fail("it was read")

    assert companions("a/model.engine", read) == companions("a/model.pt2", read) == set()


def unlist(bundle, path, variant):
    """Take a file out of the manifest, as a stranger might who wants to change it after the proof."""
    manifest = bundle.manifest
    files = {p: record for p, record in manifest.files.items() if p != path}
    own = tuple(p for p in variant.files if p != path)
    variants = tuple(dataclasses.replace(v, files=own) if v.files == variant.files else v for v in manifest.variants)
    content = bundle.read(path)
    bundle.commit(dataclasses.replace(manifest, files=files, variants=variants))
    file = bundle.path / path
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return Bundle.open(bundle.path)


@pytest.mark.parametrize(("name", "end"), [("onnxruntime", ".data"), ("openvino", ".bin")])
def test_weights_that_the_manifest_omits_are_not_loaded(built, name, end):
    variant = next(v for v in built.manifest.variants if v.backend == name)
    weights = next(path for path in variant.files if path.endswith(end))
    opened = unlist(built, weights, variant)
    with pytest.raises(BundleError, match="would be read with") as caught:
        opened.model(opened.manifest.variant(variant.name))
    assert repr(weights) in caught.value.message
    with pytest.raises(BundleError, match="would be read with"):
        verify_variant(opened, opened.manifest.variant(variant.name))


def test_weights_that_are_listed_and_that_no_proof_is_about_are_not_loaded(built):
    variant = next(v for v in built.manifest.variants if v.backend == "openvino")
    own = tuple(path for path in variant.files if not path.endswith(".bin"))
    built.manifest = built.manifest.with_variant(dataclasses.replace(variant, files=own))
    with pytest.raises(BundleError, match="not listed as a part of it"):
        built.model(built.manifest.variant(variant.name))


def test_a_file_beside_a_model_that_the_manifest_does_not_list_is_named(built):
    (built.path / "model" / "source" / "scales.json").write_text("{}")
    with pytest.raises(BundleError, match=r"'model/source/scales\.json' would be read with"):
        built.model(built.manifest.component("model"))
    (built.path / "model" / "source" / "scales.json").unlink()
    (built.path / "model" / "source" / ".DS_Store").write_text("of a file manager")
    assert built.model(built.manifest.component("model")).is_file()


def test_weights_within_the_folder_are_opened(bundle, tmp_path):
    model = tiny.model()
    with bundle.adding("model/own") as added:
        onnx.save(model, added.path / "model.onnx", save_as_external_data=True, location="w", size_threshold=0)
    component = dataclasses.replace(bundle.manifest.component("model"), model="model/own/model.onnx")
    with bundle.adding("model/own.goldens") as goldens:
        (goldens.path / "goldens.safetensors").write_bytes(bundle.read(component.goldens))
    component = dataclasses.replace(component, goldens="model/own/goldens.safetensors")
    (bundle.path / "model/own.goldens/goldens.safetensors").rename(bundle.path / component.goldens)
    record = {component.goldens: next(iter(goldens.files.values()))}
    bundle.commit(bundle.manifest.with_component(component), {**added.files, **record})
    with backend("onnxruntime").open(bundle.model(component), component.signature) as session:
        x = tiny.sample(2)
        np.testing.assert_allclose(session.run({"x": x})["y"], tiny.answer(x), rtol=1e-5)
