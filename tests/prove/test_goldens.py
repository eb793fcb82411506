import stat
from dataclasses import replace

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from torchlift.errors import NoSignalError
from torchlift.evidence import Rows
from torchlift.prove.goldens import (
    Golden,
    blank,
    cut,
    load_goldens,
    require_signal,
    save_goldens,
    telling_order,
    with_rows,
)
from torchlift.signature import CORNERS, Axis, Signature, TensorSpec

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
    save_goldens(tmp_path / "goldens", [Golden("min", {"a/b": array.T}, {"y": np.ones(1, np.float32)})])
    tensors = load_file(tmp_path / "goldens")
    assert tensors.keys() == {"min/inputs/a/b", "min/outputs/y"}
    found = tensors["min/inputs/a/b"]
    assert found.dtype == dtype
    assert np.array_equal(found, array.T)


def test_names_with_slashes_come_back(bundle):
    array = np.ones(1, np.float32)
    signature = Signature((TensorSpec("a/b", "float32", (1,)),), (TensorSpec("c/d/e", "float32", (1,)),))
    component = replace(bundle.manifest.component("model"), signature=signature, inputs={}, answers={})
    save_goldens(bundle.file(component.goldens), [Golden(c, {"a/b": array}, {"c/d/e": array}) for c in CORNERS])
    for golden in load_goldens(bundle, component).values():
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


def counted(rows):
    """A golden with its batch axis last in the output, and an output and an input without one."""
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 2)), TensorSpec("scale", "float32", (2,))),
        (TensorSpec("y", "float32", (2, "batch")), TensorSpec("z", "float32", (3,))),
        (Axis("batch", 1, 4, 6),),
    )
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    inputs = {"x": x, "scale": np.ones(2, np.float32)}
    return signature, Golden("samples", inputs, {"y": np.ascontiguousarray(x.T), "z": np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    ("count", "rows", "noted"),
    [(2, [0, 1], Rows(2, 3)), (3, [0, 1, 2], None), (5, [0, 1, 2, 0, 1], Rows(5, 3))],
)
def test_rows_are_cut_or_repeated_with_their_answers(count, rows, noted):
    signature, golden = counted(3)
    found = with_rows(signature, golden, count)
    assert (found.name, found.rows) == ("samples", noted)
    np.testing.assert_array_equal(found.inputs["x"], golden.inputs["x"][rows])
    np.testing.assert_array_equal(found.outputs["y"], golden.outputs["y"][:, rows])
    np.testing.assert_array_equal(found.inputs["scale"], golden.inputs["scale"])
    np.testing.assert_array_equal(found.outputs["z"], golden.outputs["z"])
    assert all(array.flags.c_contiguous for array in (*found.inputs.values(), *found.outputs.values()))
    assert signature.check(found.inputs) == {"batch": count}


def test_rows_in_which_every_output_is_large_come_first():
    signature = Signature(
        (TensorSpec("x", "float32", ("batch",)),),
        (
            TensorSpec("y", "float32", (2, "batch")),
            TensorSpec("z", "float16", ("batch",)),
            TensorSpec("no", "float32", (None, "batch")),
            TensorSpec("same", "float32", (4,)),
        ),
        (Axis("batch", 1, 4, 6),),
    )
    y = np.array([[9, -1, 3, 0], [0, 0, -6, 0]], np.float32)
    outputs = {"y": y, "z": np.array([1, 50, -100, np.nan], np.float16), "no": y[:0], "same": y[0]}
    golden = Golden("samples", {"x": np.arange(4, dtype=np.float32)}, outputs)
    order = telling_order(signature, golden)
    assert order.tolist() == [2, 1, 0, 3]
    assert with_rows(signature, golden, 2, order).inputs["x"].tolist() == [2, 1]
    assert with_rows(signature, golden, 2, order).outputs["y"].tolist() == [[3, -1], [-6, 0]]
    silent = replace(golden, outputs={name: np.zeros_like(array) for name, array in outputs.items()})
    assert telling_order(signature, silent).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("dtype", "bounds", "value"),
    [
        ("float32", None, 0),
        ("int64", (0, 9), 0),
        ("int64", (1, 9), 1),
        ("int64", (-9, 0), -9),
        ("int64", (0.5, 9), 1),
        ("float32", (1.5, 5), 1.5),
        ("float16", (-1, 1), 0),
        ("bool", None, False),
    ],
)
def test_blank_inputs_are_zero_where_that_is_within_the_bounds(dtype, bounds, value):
    signature = Signature((TensorSpec("x", dtype, ("batch", 2), bounds),), (), (Axis("batch", 1, 4, 6),))
    found = blank(signature, {"x": np.ones((3, 2), dtype)})["x"]
    assert (found.dtype, found.shape) == (dtype, (3, 2))
    assert (found == value).all()


@pytest.mark.parametrize("outputs", [{}, {"y": np.zeros((2, 0), np.float32)}, {"y": np.zeros((0,), np.int64)}])
def test_goldens_without_any_answer_prove_nothing(outputs):
    with pytest.raises(NoSignalError, match="gives no number"):
        require_signal([Golden("min", {}, outputs)])
