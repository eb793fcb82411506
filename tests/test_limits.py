"""What a signature admits: sizes that can be allocated, and integers within their bounds."""

import contextlib
import json
import math
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper

from torchlift.backends import Session, backend
from torchlift.backends.cuda import DeviceArray
from torchlift.bundle import Bundle
from torchlift.cli import cli
from torchlift.errors import BundleError, SignatureError
from torchlift.manifest import MANIFEST
from torchlift.pipelines.batches import HALF, next_batch
from torchlift.signature import LARGEST, LARGEST_INPUT, Axis, Profile, Signature, TensorSpec

HUGE = [10**12, 10**18, 2**64, 10**400, 10**5000]
NO_SIZES = [0, -3, True, 2.0, "3", b"3", (3,), np.int64(3), math.nan, *HUGE]


@given(st.lists(st.integers(-2, 2**40) | st.integers(LARGEST - 2, LARGEST + 2), min_size=3, max_size=3).map(sorted))
def test_an_axis_is_a_range_of_sizes_that_a_tensor_can_have(sizes):
    axis = None
    with contextlib.suppress(SignatureError):
        axis = Axis("batch", *sizes)
    assert (axis is not None) == (sizes[0] >= 1 and sizes[2] <= LARGEST)


@pytest.mark.parametrize("size", NO_SIZES, ids=lambda size: type(size).__name__)
@pytest.mark.parametrize("which", ["min", "opt", "max"])
def test_what_is_no_size_is_no_part_of_a_range(which, size):
    with pytest.raises(SignatureError, match="axis batch") as caught:
        Axis("batch", **{"min": 1, "opt": 1, "max": 1, which: size})
    assert len(caught.value.message) < 400
    assert str(LARGEST) in caught.value.remedy


@pytest.mark.parametrize("digits", ["1" + "0" * 12, "9" * 20, "9" * 5001, "0" * 5000 + "1"], ids=len)
def test_a_number_too_long_for_a_size_is_no_range(digits):
    for text in (digits, f"1..{digits}..{digits}", f"1..1..{digits}"):
        with pytest.raises(SignatureError, match="axis batch") as caught:
            Axis.parse("batch", text)
        assert len(caught.value.message) < 400
        with pytest.raises(SignatureError) as caught:
            Profile.parse(f"batch={text.replace('..', ':')}")
        assert len(caught.value.message) < 400


def test_a_long_number_is_refused_on_the_command_line_before_the_model_is_read():
    text = f"batch=1..{10**12}..{10**12}"
    done = CliRunner().invoke(cli, ["export", "nowhere.py:build", "-o", "nowhere", "--axis", text])
    assert done.exit_code == 2
    assert f"axis batch: 1..{10**12}..{10**12}" in done.output
    assert str(LARGEST) in done.output


@pytest.mark.parametrize("dim", [d for d in NO_SIZES if not isinstance(d, str)], ids=lambda dim: type(dim).__name__)
def test_what_is_no_size_is_no_dimension(dim):
    with pytest.raises(SignatureError, match="tensor x: dimension 1 is") as caught:
        TensorSpec("x", "float32", ("batch", dim))
    assert len(caught.value.message) < 400
    assert str(LARGEST) in caught.value.remedy


# what a signature would have others allocate


def ids(*ranges, dtype="int64", outputs=()):
    axes = tuple(Axis(name, *sizes) for name, sizes in zip(("batch", "length"), ranges, strict=False))
    return Signature((TensorSpec("ids", dtype, tuple(axis.name for axis in axes)),), outputs, axes)


@pytest.mark.parametrize("ranges", [[(10**9, 10**9, 10**9)], [(1, 10**9, 10**9)], [(1, 8, 16), (1, 2**26, 2**26)]])
def test_an_input_that_few_rows_would_be_filled_up_to_is_refused_with_what_it_takes(ranges):
    with pytest.raises(SignatureError, match=r"input ids: int64\[.*\] takes [47]\.[05] GiB") as caught:
        ids(*ranges)
    assert "2 GiB" in caught.value.remedy


def test_more_elements_than_kernels_count_are_refused():
    assert ids((1, 1, LARGEST))
    with pytest.raises(SignatureError, match=f"tensor ids: .* has {2 * LARGEST} elements") as caught:
        ids((1, 1, 2), (1, 1, LARGEST))
    assert str(LARGEST) in caught.value.remedy


def test_fixed_sizes_count_and_those_of_outputs_too():
    with pytest.raises(SignatureError, match=r"tensor x: .* elements"):
        Signature((TensorSpec("x", "uint8", (2, LARGEST)),), ())
    with pytest.raises(SignatureError, match=r"tensor y: float32\[batch, \?, 9\] has"):
        ids((1, 1, LARGEST), outputs=(TensorSpec("y", "float32", ("batch", None, 9)),))


def test_a_shape_of_absurd_rank_is_refused_in_few_words():
    with pytest.raises(SignatureError) as caught:
        Signature((TensorSpec("x", "uint8", ("n",) * 600),), (), (Axis("n", 1, 1, LARGEST),))
    assert "a number of thousands of digits elements" in caught.value.message


@given(st.integers(1, LARGEST), st.integers(1, LARGEST), st.sampled_from([("int64", 8), ("float16", 2), ("bool", 1)]))
def test_what_is_admitted_is_allocated_within_the_limits(size, width, dtype):
    name, bytes_ = dtype
    made = None
    with contextlib.suppress(SignatureError):
        made = Signature((TensorSpec("x", name, ("batch", width)),), (), (Axis("batch", 1, size, size),))
    count = size * width
    assert (made is not None) == (count <= LARGEST and count * bytes_ <= LARGEST_INPUT)


@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        ({"opt": 10**12, "max": 10**12}, ["batch", 32]),
        ({"min": 10**9, "opt": 10**9, "max": 10**9}, ["batch"]),
        ({"max": 10**400}, ["batch", 32]),
        ({}, ["batch", -32]),
        ({}, ["batch", 0]),
        ({}, ["batch", 10**18]),
        ({}, ["batch", True]),
        ({}, ["batch", 32.0]),
    ],
)
def test_a_bundle_whose_manifest_has_such_sizes_is_refused(bundle, axis, shape):
    file = bundle.path / MANIFEST
    manifest = json.loads(file.read_bytes())
    signature = manifest["components"][0]["signature"]
    signature["axes"][0].update(axis)
    signature["inputs"][0]["shape"] = shape
    file.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        Bundle.open(bundle.path)


def test_a_number_of_thousands_of_digits_in_a_manifest_is_refused(bundle):
    file = bundle.path / MANIFEST
    text = file.read_text()
    assert text.count('"max": 8') == 1
    file.write_text(text.replace('"max": 8', f'"max": {"9" * 5001}'))
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        Bundle.open(bundle.path)


class Counting(Sequence):
    """As a range, and fails where more of its sizes are looked at than any search needs."""

    def __init__(self, sizes, looked=None):
        self.sizes, self.looked = sizes, [] if looked is None else looked

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Counting(self.sizes[index], self.looked)
        self.looked.append(index)
        assert len(self.looked) < 1000, "the sizes are gone through one by one"
        return self.sizes[index]


@pytest.mark.parametrize("count", [1, 7, 200])
@pytest.mark.parametrize("covered", [range(1, LARGEST + 1), range(1, 5), range(3, LARGEST + 1)])
def test_a_batch_is_found_among_very_many_sizes(count, covered):
    batch = next_batch(0, count, Counting(range(1, LARGEST + 1)), covered.__contains__)
    assert batch.size in covered
    assert 1 <= batch.rows.stop <= count


def defined(left, sizes, covered, part):
    """The size of the next batch, by its definition."""
    left = min(left, sizes[-1])
    more = min((n for n in sizes if n >= left and n in covered), default=None)
    fewer = max((n for n in sizes if n <= left and n in covered), default=None)
    if more is not None and (fewer is None or more <= part * left):
        return more
    return max(left, sizes[0]) if fewer is None else fewer


@given(
    st.integers(1, 20), st.lists(st.integers(1, 12), min_size=2, max_size=2).map(sorted), st.sets(st.integers(1, 12))
)
def test_a_batch_is_of_the_size_that_its_definition_says(left, ends, covered):
    for sizes in (range(ends[0], ends[1] + 1), tuple(ends)):
        for part in (HALF, 6):
            found = next_batch(3, 3 + left, sizes, covered.__contains__, part)
            assert found.size == defined(left, sizes, covered, part)


# integers within their bounds

TOKENS = Signature(
    (TensorSpec("ids", "int64", ("batch", "length"), (1, 100)), TensorSpec("weight", "float32", ("batch",), (0, 1))),
    (TensorSpec("y", "float32", ("batch", "length", 2)),),
    (Axis("batch", 1, 2, 4), Axis("length", 1, 3, 5)),
)


def feeds(ids, weight=0.5):
    ids = np.asarray(ids, np.int64)
    return {"ids": ids, "weight": np.full(len(ids), weight, np.float32)}


VALUES = st.integers(1, 99) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 99, 100])


@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=VALUES))
def test_integers_are_within_their_bounds_or_the_first_that_is_not_is_named(array):
    outside = np.argwhere((array < 1) | (array > 99)).tolist()
    if not outside:
        assert TOKENS.check(feeds(array)) == {"batch": array.shape[0], "length": array.shape[1]}
        return
    with pytest.raises(SignatureError) as caught:
        TOKENS.check(feeds(array))
    value = array[tuple(outside[0])]
    assert f"input ids is int64{list(array.shape)} and holds {value} at {outside[0]}" in caught.value.message
    assert "1..99" in caught.value.message
    assert "from 1 to 99" in caught.value.remedy


@pytest.mark.parametrize("weight", [-5.0, 1.0, math.nan, math.inf])
def test_real_numbers_may_go_beyond_the_bounds_of_samples(weight):
    assert TOKENS.check(feeds([[1, 2]], weight)) == {"batch": 1, "length": 2}


def one(dtype, bounds, shape=("batch",)):
    return Signature((TensorSpec("x", dtype, shape, bounds),), (), (Axis("batch", 1, 2, 4),))


@pytest.mark.parametrize(
    ("dtype", "bounds", "within", "outside"),
    [
        ("uint8", (10, 1000), [10, 255], 9),
        ("int8", (-1000, 100), [-128, 99], 100),
        ("int32", (-0.5, 2.5), [0, 1, 2], 3),
        ("int16", (0.0, 3.0), [0, 2], -1),
        ("int64", (0, 10**400), [0, 2**63 - 1], -1),
    ],
)
def test_bounds_may_be_no_integers_or_beyond_the_type(dtype, bounds, within, outside):
    assert one(dtype, bounds).check({"x": np.array(within, dtype)}) == {"batch": len(within)}
    with pytest.raises(SignatureError, match=rf"holds {outside} at \[1\]"):
        one(dtype, bounds).check({"x": np.array([within[0], outside], dtype)})


def test_booleans_scalars_and_arrays_without_elements():
    assert one("bool", (0, 1)).check({"x": np.array([True])})
    scalar, unknown = one("int64", (2, 5), ()), one("int64", (2, 5), (None,))
    assert scalar.check({"x": np.int64(4)}) == scalar.check({"x": np.array(4)}) == {}
    assert unknown.check({"x": np.zeros(0, np.int64)}) == {}
    for array in (np.int64(5), np.array(5)):
        with pytest.raises(SignatureError, match=r"holds 5 at \[\], outside 2..4"):
            scalar.check({"x": array})


def test_what_lies_on_a_device_is_not_looked_at():
    ids = DeviceArray(0, (1, 2), np.dtype(np.int64), 0, owner=None)
    weight = DeviceArray(0, (1,), np.dtype(np.float32), 0, owner=None)
    assert TOKENS.check({"ids": ids, "weight": weight}) == {"batch": 1, "length": 2}
    assert TOKENS.check_shapes({"ids": (1, 2), "weight": (1,)}) == {"batch": 1, "length": 2}


class Answering(Session):
    """Answers nothing, and remembers that it was asked."""

    def __init__(self):
        super().__init__(TOKENS, "a test")
        self.asked = False

    def _run(self, feeds):
        self.asked = True
        return {}

    def _prepare(self, feeds):
        self.asked = True
        return lambda: None


@pytest.mark.parametrize("door", ["run", "prepare", "fits"])
def test_every_door_of_a_session_has_the_check(door):
    session = Answering()
    with pytest.raises(SignatureError, match=r"input ids .* holds 100 at \[0, 1\]"):
        getattr(session, door)(feeds([[1, 100]]))
    assert not session.asked
    getattr(session, door)(feeds([[1, 99]]))


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    """An embedding of 100 ids, times a weight, as an ONNX file."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Unsqueeze", ["weight", "last"], ["column"]),
        helper.make_node("Mul", ["rows", "column"], ["y"]),
    ]
    described = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info("weight", TensorProto.FLOAT, ["batch"]),
    ]
    table = np.random.default_rng(0).standard_normal((100, 2), np.float32)
    graph = helper.make_graph(
        nodes,
        "embedding",
        described,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 2])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1, 2]), "last")],
    )
    file = tmp_path_factory.mktemp("embedding") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("value", [100, 10**6, -101, -(2**63)])
def test_every_runtime_refuses_the_same_ids_in_the_same_words(embedding, tmp_path, name, value):
    runtime = backend(name)
    model = tmp_path / runtime.build(embedding, tmp_path, TOKENS)
    with runtime.open(model, TOKENS) as session:
        assert session.run(feeds([[1, 99]]))["y"].shape == (1, 2, 2)
        with pytest.raises(SignatureError, match=rf"input ids .* holds {value} at \[1, 0\]"):
            session.run(feeds([[1, 2], [value, 2]]))
