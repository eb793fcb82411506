import dataclasses
import os
import shutil

import numpy as np
import pytest
import tiny

from torchlift.backends import SessionOptions, backend
from torchlift.backends import openvino as module
from torchlift.errors import BackendError, ProviderError, SignatureError
from torchlift.machine import RunOn, this_machine


@pytest.fixture
def model(built_once):
    return built_once.file(built_once.manifest.variant("model/openvino/fp32").model)


def answers(model, precision, x):
    with backend("openvino").open(model, tiny.SIGNATURE, precision) as session:
        return session.run({"x": x})["y"]


def computed(model, precision):
    """The precision that OpenVINO says it computes in."""
    session = backend("openvino").open(model, tiny.SIGNATURE, precision, SessionOptions(RunOn(1)))
    compiled, _ = session._opened
    return compiled.get_property("INFERENCE_PRECISION_HINT").to_string(), session.runtime


def test_fp32_computes_in_fp32(model):
    said, runtime = computed(model, "fp32")
    assert said == "f32"
    assert runtime.endswith("CPU f32")


@pytest.fixture
def bf16():
    state = backend("openvino").supports("bf16")
    if not state.ok:
        pytest.skip(state.detail)
    return "bf16"


def test_bf16_computes_in_bf16_and_shows_it(model, bf16):
    said, runtime = computed(model, bf16)
    assert said == "bf16"
    assert runtime.endswith("CPU bf16")
    x = tiny.sample(8)
    exact = tiny.answer(x.astype(np.float64))
    full, half = (np.abs(answers(model, p, x) - exact).max() / exact.max() for p in ("fp32", bf16))
    assert full < 1e-5
    assert 1e-4 < half < 6e-2


def test_bf16_serves_from_the_files_of_fp32(built_once, bf16):
    runtime = backend("openvino")
    assert (runtime.recipe("bf16").files, runtime.recipe("fp32").files) == ("fp32", "fp32")
    variants = [built_once.manifest.variant(f"model/openvino/{p}") for p in ("fp32", bf16)]
    assert variants[0].files == variants[1].files


@pytest.mark.parametrize("instructions", [(), ("avx2", "avx512f")])
def test_a_processor_without_bf16_is_said(monkeypatch, instructions):
    machine = dataclasses.replace(this_machine(), processor="Old One", instructions=instructions)
    monkeypatch.setattr(module, "this_machine", lambda: machine)
    state = backend("openvino").supports("bf16")
    assert (state.ok, state.detail) == (False, "Old One has no bf16 instructions")
    assert backend("openvino").supports("fp32").ok


def test_another_precision_than_the_one_asked_for_is_an_error(model, monkeypatch):
    import openvino as ov

    compile_model = ov.Core.compile_model

    def at_its_own_choice(core, file, device, config):
        return compile_model(core, file, device, {**config, "INFERENCE_PRECISION_HINT": "f16"})

    monkeypatch.setattr(ov.Core, "compile_model", at_its_own_choice)
    with pytest.raises(ProviderError, match="CPU at f32 was asked for, OpenVINO would run on CPU at") as caught:
        backend("openvino").open(model, tiny.SIGNATURE)
    assert "torchlift doctor" in caught.value.remedy


def test_a_built_model_says_nothing_of_its_source(source, tmp_path):
    named = shutil.copy(source, tmp_path / "someones-secret-model.onnx")
    backend("openvino").build(named, tmp_path, tiny.SIGNATURE)
    content = (tmp_path / "model.xml").read_text()
    assert "someones-secret-model" not in content
    assert "<net " in content


def test_weights_keep_their_precision(model):
    weights = model.with_suffix(".bin").read_bytes()
    assert tiny.weights()[0].T.tobytes() in weights or tiny.weights()[0].tobytes() in weights


def test_weights_that_are_missing_are_a_damaged_model(model, tmp_path):
    (tmp_path / "model.xml").write_bytes(model.read_bytes())
    with pytest.raises(BackendError, match=r"OpenVINO cannot load model\.xml") as caught:
        backend("openvino").open(tmp_path / "model.xml", tiny.SIGNATURE)
    assert "torchlift build" in caught.value.remedy


def test_a_runtime_without_its_plug_in(monkeypatch):
    import openvino as ov

    monkeypatch.setattr(ov.Core, "available_devices", property(lambda core: ["NPU"]))
    state = backend("openvino").available()
    assert (state.ok, state.detail) == (False, "its CPU plug-in is missing")
    assert "torchlift[openvino]" in state.remedy


@pytest.mark.parametrize(("recipe", "precision"), [("fp32", "fp32"), ("bf16", "bf16")])
def test_layers_say_what_they_compute_in_and_what_they_are_made_of(model, recipe, precision):
    if not backend("openvino").supports(recipe).ok:
        pytest.skip(backend("openvino").supports(recipe).detail)
    layers = backend("openvino").layers(model, tiny.SIGNATURE, {"x": tiny.sample(8)}, recipe=recipe, runs=3)
    product = next(layer for layer in layers if layer.operator == "FullyConnected")
    assert (product.precision, product.device) == (precision, "CPU")
    assert "sum" in product.nodes, "the product, its bias and relu are one layer"
    assert product.seconds > 0
    assert all(0 <= layer.seconds < 0.1 for layer in layers)


FIRST_AT_ONCE = """
import faulthandler
import pathlib

import tiny
from sharing import at_once

from torchlift.backends import backend

faulthandler.dump_traceback_later(20, exit=True)
session = backend("openvino").open(pathlib.Path(sys.argv[1]), tiny.SIGNATURE)
samples = [{"x": tiny.sample(2, number)} for number in range(8)]
sys.setswitchinterval(1e-5)
at_once(lambda number: [session.run(samples[number]) for _ in range(20)], len(samples))
"""


@pytest.mark.parametrize("_", range(2))
def test_threads_whose_arrays_are_the_first_in_the_process_do_not_stand_still(model, python, _):
    """Where nothing prevents it, they do in about two of three processes."""
    ended = python(FIRST_AT_ONCE, model)
    assert ended.returncode == 0, ended.stderr


def test_layers_of_inputs_that_do_not_fit_are_refused(model):
    with pytest.raises(SignatureError, match="input x is float64"):
        backend("openvino").layers(model, tiny.SIGNATURE, {"x": np.zeros((1, 32))})


LAST_USED_BY_ANOTHER_THREAD = """
import pathlib, signal, threading
import onnx, tiny
from torchlift.backends import backend

folder = pathlib.Path(sys.argv[1])
onnx.save(tiny.model(), folder / "source.onnx")
runtime = backend("openvino")
model = folder / runtime.build(folder / "source.onnx", folder, tiny.SIGNATURE)
for _ in range(3):
    held = [runtime.open(model, tiny.SIGNATURE)]
    held[0].run({"x": tiny.sample(2)})
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_is_handled_after_another_thread_let_the_last_session_go(python, tmp_path):
    done = python(LAST_USED_BY_ANOTHER_THREAD, tmp_path)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_nobody_is_told_what_is_converted(python, source, tmp_path):
    """OpenVINO notes in the user's home that it will tell its server."""
    (tmp_path / "home").mkdir()
    (tmp_path / "out").mkdir()
    script = """
import pathlib, sys, tiny
from torchlift.backends import backend
backend("openvino").build(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), tiny.SIGNATURE)
"""
    hidden = {name: value for name, value in os.environ.items() if name != "CI"}
    done = python(script, source, tmp_path / "out", env={**hidden, "HOME": str(tmp_path / "home")})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.xml").is_file()
    assert list((tmp_path / "home").iterdir()) == []
