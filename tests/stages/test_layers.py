"""What the layers of a variant cost, by the runtimes that are here."""

from dataclasses import replace

import numpy as np
import pytest
from staged import ORT, OV, Recorder, component_of

from torchlift.backends import Backend, LayerTime, backend
from torchlift.errors import BackendError, BundleError, InputError
from torchlift.machine import RunOn
from torchlift.prove.goldens import load_goldens
from torchlift.stages import layers_of

NODES = {"product", "sum", "relu"}


@pytest.mark.parametrize("name", [ORT, OV])
def test_layers_cost_something_and_are_made_of_the_graph_s_nodes(built_once, name):
    layers = layers_of(built_once.path, name)
    assert layers
    assert all(isinstance(layer, LayerTime) and 0 <= layer.seconds < 1 for layer in layers)
    assert any(layer.seconds > 0 for layer in layers)
    assert "fp32" in {layer.precision for layer in layers}
    assert {layer.device for layer in layers} == {"CPU"}
    assert {node for layer in layers for node in layer.nodes} & NODES


@pytest.fixture
def fed(monkeypatch):
    """What ONNX Runtime is given to run layer by layer."""
    found = []

    def layers(self, model, signature, feeds, *, recipe, source, options):
        found.append((model, feeds, recipe, options.on))
        return []

    monkeypatch.setattr(type(backend("onnxruntime")), "layers", layers)
    return found


@pytest.mark.parametrize(("batch", "rows"), [(None, 1), (1, 1), (3, 3), (8, 8)])
def test_the_batch_is_the_least_or_as_asked_and_its_inputs_the_goldens(built_once, fed, batch, rows):
    progress = Recorder()
    layers_of(built_once.path, ORT, batch, RunOn(device=1), progress)
    ((model, feeds, recipe, on),) = fed
    assert (model, recipe, on) == (built_once.file(built_once.manifest.variant(ORT).model), "fp32", RunOn(device=1))
    corner = {1: "min", 3: "opt", 8: "max"}[rows]
    golden = load_goldens(built_once, component_of(built_once))[corner].inputs["x"]
    np.testing.assert_array_equal(feeds["x"], golden[:rows])
    assert progress.titles[-1] == f"run {ORT} layer by layer"


def test_a_batch_outside_the_range_is_refused(built_once, fed):
    with pytest.raises(InputError, match=r"batch 9 is outside 1\.\.8"):
        layers_of(built_once.path, ORT, 9)
    assert fed == []


def test_a_variant_that_is_not_there_is_named_with_those_that_are(built_once):
    with pytest.raises(BundleError, match="there is no variant 'model/tensorrt/fp32'") as caught:
        layers_of(built_once.path, "model/tensorrt/fp32")
    assert ORT in caught.value.remedy


def test_a_variant_that_was_not_built_says_why_and_how_it_would_be(built):
    built.commit(built.manifest.with_variant(replace(built.manifest.variant(ORT), failure="no kernel for Foo")))
    with pytest.raises(BackendError, match=f"{ORT} was not built: no kernel for Foo") as caught:
        layers_of(built.path, ORT)
    assert caught.value.remedy == f"Build it: torchlift build {built.path}."


def test_a_runtime_that_does_not_tell_is_named(built, monkeypatch):
    runtime = backend("onnxruntime")
    monkeypatch.setattr(type(runtime), "_layers", Backend._layers)
    with pytest.raises(BackendError, match="onnxruntime does not report layers") as caught:
        layers_of(built.path, ORT)
    assert caught.value.remedy == "Ask for the layers of another backend."


def test_a_runtime_that_is_not_here_says_what_to_install(built):
    runtime = backend("tensorrt")
    if runtime.available().ok:
        pytest.skip("TensorRT is here")
    ort = built.manifest.variant(ORT)
    built.commit(built.manifest.with_variant(replace(ort, backend="tensorrt")))
    with pytest.raises(BackendError, match="the backend tensorrt cannot be used: ") as caught:
        layers_of(built.path, "model/tensorrt/fp32")
    assert caught.value.remedy == runtime.available().remedy
