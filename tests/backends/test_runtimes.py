"""What holds for every runtime alike."""

import gc
import shutil
import weakref

import numpy as np
import onnx
import pytest
import tiny
from onnx import TensorProto, helper

from torchlift.backends import SessionOptions, backend
from torchlift.errors import BackendError, BatchTooLargeError, SignatureError
from torchlift.machine import RunOn
from torchlift.signature import Signature, TensorSpec

RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    return backend(request.param)


@pytest.fixture
def opened(runtime, built_once):
    variant = built_once.manifest.variant(f"model/{runtime.name}/fp32")
    with runtime.open(built_once.file(variant.model), tiny.SIGNATURE, "fp32", SessionOptions(RunOn(1))) as session:
        yield session


def test_it_is_available_and_says_its_release(runtime):
    state = runtime.available()
    assert state.ok
    assert state.detail.startswith(runtime.version())
    assert state.remedy == ""
    assert runtime.require() is None


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_its_answer_is_that_of_numpy(opened, rows):
    x = tiny.sample(rows, seed=rows)
    found = opened.run({"x": x})
    assert list(found) == ["y"]
    assert found["y"].dtype == np.float32
    np.testing.assert_allclose(found["y"], tiny.answer(x), rtol=1e-5, atol=1e-5)


def test_its_answer_does_not_depend_on_how_the_input_lies_in_memory(opened):
    x = tiny.sample(8)
    for view in (np.asfortranarray(x), x[::-1], np.repeat(x, 2, axis=1)[:, ::2]):
        np.testing.assert_allclose(opened.run({"x": view})["y"], tiny.answer(view), rtol=1e-5, atol=1e-5)


def test_its_answers_stay_as_they_were_given(opened):
    first, second = tiny.sample(2, seed=1), tiny.sample(2, seed=2)
    kept = opened.run({"x": first})["y"]
    opened.run({"x": second})
    np.testing.assert_allclose(kept, tiny.answer(first), rtol=1e-5, atol=1e-5)


def test_an_input_may_change_after_the_call(opened):
    x = tiny.sample(2)
    expected = tiny.answer(x)
    found = opened.run({"x": x})["y"]
    x[:] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["run", "prepare"])
def test_inputs_that_do_not_fit_are_refused_before_the_runtime_sees_them(opened, method):
    for wrong in (np.zeros((1, 32)), np.zeros((1, 31), np.float32), np.zeros(32, np.float32)):
        with pytest.raises(SignatureError, match="input x is") as caught:
            getattr(opened, method)({"x": wrong})
        assert "It must be float32[batch, 32]" in caught.value.remedy
    with pytest.raises(BatchTooLargeError, match=r"batch 9 is outside 1\.\.8"):
        getattr(opened, method)({"x": np.zeros((9, 32), np.float32)})


@pytest.mark.parametrize("rows", [1, 8])
def test_a_prepared_call_can_be_repeated(opened, rows):
    call = opened.prepare({"x": tiny.sample(rows)})
    assert [call(), call()] == [None, None]


def test_a_prepared_call_keeps_its_inputs(opened):
    x = tiny.sample(4)
    alive = weakref.ref(x)
    call = opened.prepare({"x": x})
    del x
    gc.collect()
    assert alive() is not None
    call()


RESHAPED = Signature(
    (TensorSpec("x", "float32", (6,)), TensorSpec("shape", "int64", (2,))), (TensorSpec("y", "float32", (None, None)),)
)


def reshaping():
    """Gives ``x`` the shape that an input says: one that does not fit fails when it runs, and not before."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape")],
        "reshaping",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [6]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("method", ["run", "prepare"])
def test_what_it_raises_at_values_is_an_error_with_a_remedy(runtime, tmp_path, method):
    (tmp_path / "built").mkdir()
    onnx.save(reshaping(), tmp_path / "model.onnx")
    built = runtime.build(tmp_path / "model.onnx", tmp_path / "built", RESHAPED)
    with runtime.open(tmp_path / "built" / built, RESHAPED) as session:
        feeds = {"x": np.arange(6, dtype=np.float32), "shape": np.array([2, 3])}
        assert session.run(feeds)["y"].shape == (2, 3)
        feeds["shape"] = np.array([4, 4])
        with pytest.raises(BackendError) as caught:
            session.run(feeds) if method == "run" else session.prepare(feeds)()
        assert caught.value.message.startswith(f"{session.runtime} cannot run this: ")
        assert "index beyond its table" in caught.value.remedy
        feeds["shape"] = np.array([3, 2])
        assert session.run(feeds)["y"].shape == (3, 2), "it goes on"


def test_it_says_what_really_runs(opened, runtime):
    assert opened.runtime.startswith(runtime.version())
    assert "CPU" in opened.runtime


def test_what_it_built_can_be_moved_and_has_no_path_of_the_machine(runtime, source, tmp_path):
    built = tmp_path / "built"
    built.mkdir()
    name = runtime.build(source, built, tiny.SIGNATURE)
    for file in built.iterdir():
        content = file.read_bytes()
        for place in (str(source.parent), str(tmp_path), "/tmp/", "/root/", "/home/"):
            assert place.encode() not in content, (file, place)
    moved = shutil.move(built, tmp_path / "moved")
    with runtime.open(moved / name, tiny.SIGNATURE) as session:
        x = tiny.sample(2)
        np.testing.assert_allclose(session.run({"x": x})["y"], tiny.answer(x), rtol=1e-5, atol=1e-5)


def test_a_damaged_model_is_named(runtime, tmp_path):
    file = tmp_path / {"onnxruntime": "model.onnx", "openvino": "model.xml"}[runtime.name]
    file.write_bytes(b"neither a graph nor an engine")
    with pytest.raises(BackendError, match=f"cannot load {file.name}: ") as caught:
        runtime.open(file, tiny.SIGNATURE)
    assert caught.value.remedy.endswith(".")
    assert caught.value.__cause__ is not None


def test_a_model_that_is_missing_is_named(runtime, tmp_path):
    with pytest.raises(BackendError, match=rf"cannot load none\{runtime.suffix}: "):
        runtime.open(tmp_path / f"none{runtime.suffix}", tiny.SIGNATURE)


def test_a_source_that_it_cannot_build_is_named(runtime, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("NoSuchOperator", ["x"], ["y"])],
        "strange",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    file = tmp_path / "strange.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    with pytest.raises(BackendError, match=r"strange\.onnx") as caught:
        runtime.build(file, tmp_path, tiny.SIGNATURE)
    assert "NoSuchOperator" in caught.value.message
    assert "another backend" in caught.value.remedy
