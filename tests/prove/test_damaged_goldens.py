"""Goldens are not believed: what is no proof, or not what the signature says, is refused where it is read."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from torchlift.errors import BundleError, NoSignalError
from torchlift.manifest import Graph
from torchlift.prove.goldens import GOLDENS, Golden, load_goldens, load_samples, save_goldens
from torchlift.prove.verify import verify_variant
from torchlift.signature import CORNERS, Axis, Signature, TensorSpec

IDS = Signature(
    (TensorSpec("ids", "int64", ("batch", "length"), (1, 100)), TensorSpec("scale", "float32", (2,))),
    (TensorSpec("y", "float32", ("batch", 3)), TensorSpec("found", "int64", (None,))),
    (Axis("batch", 1, 2, 4), Axis("length", 2, 3, 5)),
)


def ids(batch, length, name="samples"):
    rng = np.random.default_rng(0)
    inputs = {"ids": rng.integers(1, 100, (batch, length)), "scale": np.ones(2, np.float32)}
    return Golden(name, inputs, {"y": rng.standard_normal((batch, 3), np.float32), "found": np.zeros(batch, np.int64)})


def at_corners():
    return [ids(*IDS.sizes(corner).values(), corner) for corner in CORNERS]


@pytest.fixture
def component(bundle):
    """The component of a bundle whose goldens are of ids."""
    component = replace(bundle.manifest.component("model"), signature=IDS, inputs={}, answers={})
    save_goldens(bundle.file(component.goldens), at_corners())
    return component


@pytest.fixture
def refused(bundle, component):
    """The error of goldens that were edited; it names the file."""

    def refused(edit):
        file = bundle.file(component.goldens)
        tensors = dict(load_file(file))
        edit(tensors)
        save_file(tensors, file)
        return raised(lambda: load_goldens(bundle, component), file)

    return refused


def raised(load, file):
    with pytest.raises((BundleError, NoSignalError)) as caught:
        load()
    assert caught.value.message.startswith(str(file))
    assert "export the model again" in caught.value.remedy
    return caught.value


def test_goldens_at_the_corners_are_read(bundle, component):
    found = load_goldens(bundle, component)
    assert [*found] == ["min", "opt", "max"]
    assert IDS.check(found["max"].inputs) == {"batch": 4, "length": 5}


def test_without_axes_all_corners_are_of_one_size(bundle, component):
    signature = Signature((TensorSpec("x", "float32", (2, 3)),), (TensorSpec("y", "float32", ()),))
    x, y = np.ones((2, 3), np.float32), np.asarray(3, np.float32)
    save_goldens(bundle.file(component.goldens), [Golden(corner, {"x": x}, {"y": y}) for corner in CORNERS])
    assert [*load_goldens(bundle, replace(component, signature=signature, inputs={}, answers={}))] == [
        "min",
        "opt",
        "max",
    ]


def without(golden):
    def edit(tensors):
        for key in [key for key in tensors if key.startswith(f"{golden}/")]:
            del tensors[key]

    return edit


def renamed(golden, name):
    def edit(tensors):
        for key in [key for key in tensors if key.startswith(f"{golden}/")]:
            tensors[key.replace(golden, name, 1)] = tensors.pop(key)

    return edit


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (without("max"), "min, opt"),
        (renamed("opt", "optimum"), "optimum"),
        (lambda t: t.clear(), "of nothing"),
        (lambda t: t.update({f"more/{key[4:]}": array for key, array in t.items() if key.startswith("opt/")}), "more"),
    ],
)
def test_a_component_s_goldens_are_min_opt_and_max(refused, edit, named):
    error = refused(edit)
    assert isinstance(error, BundleError)
    assert named in error.message


ROLES = [("opt", "inputs", "ids"), ("min", "inputs", "scale"), ("max", "outputs", "y"), ("opt", "outputs", "found")]


@pytest.mark.parametrize(("golden", "role", "tensor"), ROLES)
def test_a_tensor_that_is_missing_or_too_many_is_named(refused, golden, role, tensor):
    key = f"{golden}/{role}/{tensor}"
    error = refused(lambda tensors: tensors.pop(key))
    assert f"the golden {golden}" in error.message
    assert tensor in error.message


@pytest.mark.parametrize("role", ["inputs", "outputs"])
def test_a_tensor_that_the_signature_does_not_have_is_named(refused, role):
    error = refused(lambda tensors: tensors.update({f"min/{role}/other": np.ones(1, np.float32)}))
    assert "the golden min" in error.message
    assert "other" in error.message


@pytest.mark.parametrize(("golden", "role", "tensor"), ROLES)
@pytest.mark.parametrize(
    "change", [lambda a: a.astype(np.float16), lambda a: a[None]], ids=["another dtype", "another rank"]
)
def test_a_tensor_of_another_dtype_or_rank_is_named(refused, golden, role, tensor, change):
    key = f"{golden}/{role}/{tensor}"
    error = refused(lambda tensors: tensors.update({key: np.ascontiguousarray(change(tensors[key]))}))
    assert f"the golden {golden}" in error.message
    assert f"{role[:-1]} {tensor}" in error.message


@pytest.mark.parametrize(
    ("key", "shape", "named"),
    [
        ("max/inputs/ids", (5, 5), "the golden max: input ids"),
        ("min/inputs/ids", (2, 2), "the golden min: output y"),
        ("max/outputs/y", (3, 3), "the golden max: output y"),
        ("opt/inputs/scale", (3,), "the golden opt: input scale"),
    ],
)
def test_a_tensor_of_another_size_is_named(refused, key, shape, named):
    error = refused(lambda tensors: tensors.update({key: np.ones(shape, tensors[key].dtype)}))
    assert named in error.message


@pytest.mark.parametrize(("batch", "length", "axis"), [(2, 2, "batch 2"), (1, 3, "length 3")])
def test_a_golden_of_the_sizes_of_another_corner_is_none(bundle, component, batch, length, axis):
    file = bundle.file(component.goldens)
    save_goldens(file, [ids(batch, length, "min"), *at_corners()[1:]])
    error = raised(lambda: load_goldens(bundle, component), file)
    assert f"the golden min has {axis}" in error.message


@pytest.mark.parametrize("value", [0, 100, -(2**63)])
def test_inputs_outside_their_bounds_are_named(refused, value):
    error = refused(lambda tensors: tensors["max/inputs/ids"].__setitem__((1, 2), value))
    assert "the golden max: input ids" in error.message
    assert f"holds {value} at [1, 2]" in error.message


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("golden", CORNERS)
def test_answers_that_prove_nothing_are_named(refused, golden, value):
    error = refused(lambda tensors: tensors[f"{golden}/outputs/y"].fill(value))
    assert isinstance(error, NoSignalError)
    assert "output y" in error.message
    assert f"the golden {golden}" in error.message


@pytest.mark.parametrize("key", ["", "min", "min/inputs", "min/mapping/x", "min/name/ids", "min/__class__/x"])
def test_a_key_of_another_form_is_named(refused, key):
    error = refused(lambda tensors: tensors.update({key: np.ones(1, np.float32)}))
    assert repr(key) in error.message or "inputs do not fit" in error.message


def container(dtype, shape, size):
    header = json.dumps({"min/inputs/ids": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + b"1" * size


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no safetensors at all",
        struct.pack("<Q", 2**60),
        container("BF16", [2], 4),
        container("F8_E4M3", [4], 4),
        container("F32", [2**62, 4], 4),
        container("F32", [2**62, 0], 0),
    ],
)
def test_what_is_no_file_of_goldens_is_refused(bundle, component, content):
    file = bundle.file(component.goldens)
    file.write_bytes(content)
    assert isinstance(raised(lambda: load_goldens(bundle, component), file), BundleError)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40) | st.binary(max_size=40).map(lambda b: struct.pack("<Q", len(b)) + b))
def test_any_other_bytes_are_refused(bundle, component, content):
    file = bundle.file(component.goldens)
    file.write_bytes(content)
    assert isinstance(raised(lambda: load_goldens(bundle, component), file), BundleError)


def test_a_file_that_is_gone_is_refused(bundle, component):
    bundle.file(component.goldens).unlink()
    with pytest.raises(BundleError, match="is missing") as caught:
        load_goldens(bundle, component)
    assert component.goldens in caught.value.message


def test_nothing_passes_against_goldens_that_are_no_numbers(built):
    """A graph that answers NaN agreed with goldens that are NaN."""
    variant, component = built.manifest.variant("model/onnxruntime/fp32"), built.manifest.component("model")
    inputs = {f"{golden.name}/inputs/x": golden.inputs["x"] for golden in tiny.goldens()}
    answers = {f"{golden.name}/outputs/y": np.full_like(golden.outputs["y"], np.nan) for golden in tiny.goldens()}
    save_file(inputs | answers, built.file(component.goldens))
    with pytest.raises(NoSignalError, match="NaN"):
        verify_variant(built, variant)


# samples that a graph was calibrated on


@pytest.fixture
def graph(bundle, component):
    """Maker of a graph with samples, by what is in their file."""

    def make(goldens):
        with bundle.adding("model/int8") as added:
            save_goldens(added.path / GOLDENS, goldens)
        made = Graph("model", "int8", "key", component.model, (component.model, *added.files))
        bundle.commit(bundle.manifest.with_graph(made), added.files)
        return made

    return make


@pytest.mark.parametrize(("batch", "length"), [(1, 2), (3, 4), (4, 5)])
def test_samples_are_of_any_sizes_that_the_axes_admit(bundle, component, graph, batch, length):
    (found,) = load_samples(bundle, component, graph([ids(batch, length)])).values()
    assert (found.name, IDS.check(found.inputs)) == ("samples", {"batch": batch, "length": length})


def test_a_graph_that_was_not_calibrated_has_no_samples(bundle, component):
    assert load_samples(bundle, component, None) == {}
    assert load_samples(bundle, component, Graph("model", "fp16", "key", component.model, (component.model,))) == {}


@pytest.mark.parametrize(
    ("goldens", "said"),
    [
        ([], "nothing"),
        ([ids(5, 3)], "batch 5"),
        ([ids(2, 3, "max")], "max"),
        (at_corners(), "max, min, opt"),
    ],
    ids=["none", "beyond the axes", "in the place of a golden", "in the place of all"],
)
def test_what_is_no_sample_is_refused(bundle, component, graph, goldens, said):
    made = graph(goldens)
    error = raised(lambda: load_samples(bundle, component, made), bundle.path)
    assert isinstance(error, BundleError)
    assert said in error.message


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_would_not_be_read_is_not_written(tmp_path, value):
    golden = ids(2, 3)
    golden.outputs["y"].fill(value)
    with pytest.raises(NoSignalError, match="the golden samples"):
        save_goldens(tmp_path / GOLDENS, [golden])
    assert not (tmp_path / GOLDENS).exists()
