import stat

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from torchlift.measure.goldens import Golden, cut, load_goldens, save_goldens
from torchlift.signature import Axis, Signature, TensorSpec

TEXT = Signature(
    (TensorSpec("ids", "int64", ("batch", "length")), TensorSpec("scale", "float32", (2,))),
    (),
    (Axis("batch", 1, 4, 6), Axis("length", 1, 4, 8)),
)


def test_goldens_come_back_as_they_were_in_the_order_of_the_corners(bundle):
    found = load_goldens(bundle, bundle.manifest.component("model"))
    assert list(found) == ["min", "opt", "max"]
    for golden in tiny.goldens():
        assert found[golden.name].inputs["x"].dtype == np.float32
        assert np.array_equal(found[golden.name].inputs["x"], golden.inputs["x"])
        assert np.array_equal(found[golden.name].outputs["y"], golden.outputs["y"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"])
def test_every_dtype_of_a_signature_is_kept(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    save_goldens(tmp_path / "goldens", [Golden("min", {"a/b": array.T}, {})])
    ((name, found),) = load_file(tmp_path / "goldens").items()
    assert name == "min/inputs/a/b"
    assert found.dtype == dtype
    assert np.array_equal(found, array.T)


def test_names_with_slashes_come_back(bundle):
    component = bundle.manifest.component("model")
    array = np.ones(1, np.float32)
    save_goldens(bundle.file(component.goldens), [Golden("opt", {"a/b": array}, {"c/d/e": array})])
    (golden,) = load_goldens(bundle, component).values()
    assert (list(golden.inputs), list(golden.outputs)) == (["a/b"], ["c/d/e"])


def test_others_may_read_the_file(tmp_path):
    save_goldens(tmp_path / "goldens", tiny.goldens())
    assert stat.S_IMODE((tmp_path / "goldens").stat().st_mode) == 0o644


@given(st.integers(1, 6), st.integers(1, 8))
def test_a_cut_is_the_leading_part_and_leaves_fixed_sizes(batch, length):
    inputs = {"ids": np.arange(48).reshape(6, 8), "scale": np.array([1, 2], np.float32)}
    found = cut(TEXT, inputs, {"batch": batch, "length": length})
    assert np.array_equal(found["ids"], inputs["ids"][:batch, :length])
    assert found["ids"].flags.c_contiguous
    assert np.array_equal(found["scale"], inputs["scale"])
    assert TEXT.check(found) == {"batch": batch, "length": length}


def test_a_scalar_stays_a_scalar(bundle, tmp_path):
    save_goldens(tmp_path / "goldens.safetensors", [Golden("min", {"factor": np.float32(2)}, {"y": np.float32(3)})])
    assert load_file(tmp_path / "goldens.safetensors")["min/inputs/factor"].shape == ()
    signature = Signature((TensorSpec("factor", "float32", ()),), (TensorSpec("y", "float32", ()),))
    assert cut(signature, {"factor": np.asarray(2, np.float32)}, {})["factor"].shape == ()
