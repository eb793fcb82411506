import contextlib
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlift.errors import BatchTooLargeError, SignatureError
from torchlift.signature import Axis, Profile, Signature, TensorSpec

BATCH = Axis("batch", 1, 4, 8)
LENGTH = Axis("length", 2, 4, 6)
TEXT = Signature(
    inputs=(TensorSpec("ids", "int64", ("batch", "length")), TensorSpec("mask", "bool", ("batch", "length"))),
    outputs=(TensorSpec("features", "float32", ("batch", 16)), TensorSpec("boxes", "float32", (None, 4))),
    axes=(BATCH, LENGTH),
)
IMAGE = Signature((TensorSpec("pixels", "float32", ("batch", 3, 8, 8)),), (), (BATCH,))

ranges = st.lists(st.integers(1, 12), min_size=3, max_size=3).map(sorted)


def feeds(batch=2, length=4, **changed):
    return {"ids": np.zeros((batch, length), np.int64), "mask": np.ones((batch, length), bool), **changed}


@given(ranges)
def test_an_axis_reads_what_it_writes(sizes):
    axis = Axis("batch", *sizes)
    assert Axis.parse("batch", str(axis)) == axis
    assert Axis.parse("batch", f" {axis}\n") == axis


@given(st.integers(1, 10**6))
def test_one_number_fixes_an_axis(size):
    assert Axis.parse("length", str(size)) == Axis("length", size, size, size)


@given(st.text(alphabet="0123456789.-x ", max_size=9))
def test_any_text_is_a_range_or_refused(text):
    axis = None
    with contextlib.suppress(SignatureError):
        axis = Axis.parse("batch", text)
    if axis is None:
        assert not re.fullmatch(r"[1-9]\d*", text)
    else:
        assert Axis.parse("batch", str(axis)) == axis
        assert 1 <= axis.min <= axis.opt <= axis.max


@pytest.mark.parametrize("text", ["", "1..8", "1..8..", "1...8..64", "a..b..c", "-1..8..64", "1..8..64..128", "1,8,64"])
def test_text_that_is_no_range(text):
    with pytest.raises(SignatureError, match="axis batch") as caught:
        Axis.parse("batch", text)
    assert repr(text) in caught.value.message
    assert "Write min..opt..max" in caught.value.remedy


@pytest.mark.parametrize("sizes", [(0, 1, 2), (4, 2, 8), (1, 9, 8), (3, 3, 2)])
def test_sizes_that_are_no_range(sizes):
    low, opt, high = sizes
    with pytest.raises(SignatureError, match=rf"axis batch: {low}\.\.{opt}\.\.{high} is not a range") as caught:
        Axis("batch", *sizes)
    assert "1 <= min <= opt <= max" in caught.value.remedy


def test_an_axis_name_is_an_identifier():
    with pytest.raises(SignatureError, match="'batch size' is not an identifier") as caught:
        Axis("batch size", 1, 2, 3)
    assert "a name such as batch" in caught.value.remedy


def test_corners_of_an_axis():
    assert [LENGTH.at(corner) for corner in ("min", "opt", "max")] == [2, 4, 6]


def test_a_tensor_is_written_with_its_dtype_and_shape():
    assert str(TensorSpec("boxes", "float32", ("batch", None, 4))) == "float32[batch, ?, 4]"


def test_a_dtype_that_no_runtime_has():
    with pytest.raises(SignatureError, match="tensor x: dtype 'complex64' is not supported") as caught:
        TensorSpec("x", "complex64", ())
    assert "float32" in caught.value.remedy


@pytest.mark.parametrize("bounds", [(5, 2), (3, 3), (0, math.inf), (-math.inf, 0), (math.nan, 1), (0, math.nan)])
def test_bounds_that_hold_no_value_are_refused(bounds):
    with pytest.raises(SignatureError, match=rf"tensor x: bounds {re.escape(str(bounds))} hold no value") as caught:
        TensorSpec("x", "int64", (), bounds)
    assert "low inclusive and less than high" in caught.value.remedy


def test_the_shape_of_a_tensor_at_sizes():
    assert IMAGE.inputs[0].shape_at({"batch": 5}) == (5, 3, 8, 8)


def test_a_computed_size_has_no_shape():
    with pytest.raises(
        SignatureError, match=r"tensor boxes: shape float32\[\?, 4\] is computed by the model"
    ) as caught:
        TEXT.outputs[1].shape_at({"batch": 5})
    assert "Run the model" in caught.value.remedy


def test_a_signature_needs_an_input():
    with pytest.raises(SignatureError, match="at least one input") as caught:
        Signature((), TEXT.outputs, TEXT.axes)
    assert "Declare what the network takes" in caught.value.remedy


def test_a_name_may_not_appear_twice():
    with pytest.raises(SignatureError, match="tensor names appear twice: pixels") as caught:
        Signature(IMAGE.inputs, (TensorSpec("pixels", "float32", ()),), (BATCH,))
    assert "Rename" in caught.value.remedy


def test_an_axis_has_one_range():
    with pytest.raises(SignatureError, match="axis names appear twice: batch") as caught:
        Signature(IMAGE.inputs, (), (BATCH, LENGTH, Axis("batch", 1, 2, 3)))
    assert "one range" in caught.value.remedy


def test_an_axis_without_a_range_is_named():
    with pytest.raises(SignatureError, match="tensor mask: axis 'width' has no range") as caught:
        Signature((TensorSpec("mask", "bool", ("width",)),), (), (BATCH, LENGTH))
    assert "batch, length" in caught.value.remedy


def test_sizes_are_computed_where_an_output_s_is_unknown():
    assert TEXT.computes_sizes
    assert not IMAGE.computes_sizes
    assert not Signature(TEXT.inputs, TEXT.outputs[:1], TEXT.axes).computes_sizes


def test_names_and_axes_by_name():
    assert TEXT.input_names == ("ids", "mask")
    assert TEXT.output_names == ("features", "boxes")
    assert TEXT.batch == BATCH
    assert TEXT.axis("length") == LENGTH
    assert Signature((TensorSpec("x", "float32", (4,)),), ()).batch is None


def test_an_unknown_axis_is_refused_with_the_known_ones():
    with pytest.raises(SignatureError, match="no axis 'width'") as caught:
        TEXT.axis("width")
    assert "batch, length" in caught.value.remedy


def test_sizes_at_a_corner_with_some_replaced():
    assert TEXT.sizes("max") == {"batch": 8, "length": 6}
    assert TEXT.sizes("opt", batch=7) == {"batch": 7, "length": 4}
    with pytest.raises(SignatureError, match="no axis 'width'"):
        TEXT.sizes("opt", width=3)


@given(st.integers(1, 8), st.integers(2, 6))
def test_inputs_that_fit_give_the_sizes(batch, length):
    assert TEXT.check(feeds(batch, length)) == {"batch": batch, "length": length}


def test_missing_and_unknown_inputs_are_named_together():
    with pytest.raises(SignatureError, match="missing mask; unknown masks") as caught:
        TEXT.check({"ids": feeds()["ids"], "masks": feeds()["mask"]})
    assert caught.value.remedy == "The inputs are ids, mask."


def test_a_missing_input_alone():
    with pytest.raises(SignatureError, match=r"inputs do not fit: missing ids\n"):
        TEXT.check({"mask": feeds()["mask"]})


def test_an_unknown_input_alone():
    with pytest.raises(SignatureError, match=r"inputs do not fit: unknown extra\n"):
        TEXT.check(feeds(extra=np.zeros(1)))


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((2, 4), np.int32), "int32[2, 4]"),
        (np.zeros((2, 4), ">i8"), ">i8[2, 4]"),
        (np.zeros((2, 4, 1), np.int64), "int64[2, 4, 1]"),
        (np.zeros(4, np.int64), "int64[4]"),
        (np.int64(3), "int64[]"),
    ],
)
def test_a_wrong_dtype_or_rank_is_said_with_what_it_must_be(array, got):
    with pytest.raises(SignatureError) as caught:
        TEXT.check(feeds(ids=array))
    assert caught.value.message == f"input ids is {got}"
    assert caught.value.remedy == "It must be int64[batch, length]."


def test_a_wrong_fixed_size_is_said_with_its_position():
    with pytest.raises(SignatureError) as caught:
        IMAGE.check({"pixels": np.zeros((1, 3, 9, 8), np.float32)})
    assert caught.value.message == "input pixels is float32[1, 3, 9, 8]"
    assert caught.value.remedy == "It must be float32[batch, 3, 8, 8]: dimension 2 is 8."


def test_inputs_that_disagree_on_an_axis():
    with pytest.raises(SignatureError, match=r"input mask is bool.*axis length is 5 here and 4 in another") as caught:
        TEXT.check(feeds(mask=np.ones((2, 5), bool)))
    assert caught.value.remedy == "All inputs must agree on length."


@pytest.mark.parametrize(("batch", "length", "said"), [(0, 4, "batch 0"), (2, 1, "length 1"), (2, 7, "length 7")])
def test_a_size_outside_its_range_is_no_matter_of_the_batch(batch, length, said):
    with pytest.raises(SignatureError, match=f"{said} is outside") as caught:
        TEXT.check(feeds(batch, length))
    assert not isinstance(caught.value, BatchTooLargeError)


def test_a_batch_over_the_maximum_has_its_own_error_and_says_how_to_export():
    with pytest.raises(BatchTooLargeError, match=r"input ids is int64\[9, 4\]: batch 9 is outside 1..8") as caught:
        TEXT.check(feeds(batch=9))
    assert "`axes=batch=1..4..9`" in caught.value.remedy


def test_a_list_is_no_tensor() -> None:
    signature = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", (2,)),))
    with pytest.raises(SignatureError, match=r"input x is a list\nIt must be a numpy array, float32\[2\]"):
        signature.check({"x": [1.0, 2.0]})


# parts of ranges, and profiles of them


@given(ranges, ranges)
def test_a_part_of_a_range_is_within_it_or_refused(whole, part):
    axis = Axis("batch", *whole)
    found = None
    with contextlib.suppress(SignatureError):
        found = axis.within(*part)
    assert (found is not None) == (whole[0] <= part[0] and part[2] <= whole[2])
    if found is not None:
        assert found == Axis("batch", *part)


@pytest.mark.parametrize(
    ("part", "wider"),
    [
        ((1, 4, 9), "`axes=batch=1..4..9`"),
        ((9, 9, 9), "`axes=batch=1..4..9`"),
        ((10, 12, 64), "`axes=batch=1..4..64`"),
    ],
)
def test_a_part_beyond_its_range_is_refused_and_says_how_to_export(part, wider):
    low, opt, high = part
    with pytest.raises(SignatureError, match=rf"the profile batch={low}:{opt}:{high} is outside 1\.\.8") as caught:
        BATCH.within(*part)
    assert caught.value.remedy == f"Choose a range within it, or export again with {wider}."


def test_a_part_below_its_range_is_refused_and_says_how_to_export():
    with pytest.raises(SignatureError, match=r"the profile length=1:3:6 is outside 2\.\.6") as caught:
        LENGTH.within(1, 3, 6)
    assert "`axes=length=1..4..6`" in caught.value.remedy


def test_a_part_must_be_a_range_itself():
    with pytest.raises(SignatureError, match=r"axis batch: 4\.\.2\.\.8 is not a range"):
        BATCH.within(4, 2, 8)


@given(st.dictionaries(st.sampled_from(["batch", "length", "text.length", "image.batch"]), ranges, min_size=1))
def test_a_profile_reads_what_is_written(found):
    text = ",".join(f"{name}={low}:{opt}:{high}" for name, (low, opt, high) in found.items())
    assert Profile.parse(text).ranges == {name: tuple(sizes) for name, sizes in found.items()}
    assert Profile.parse(text.replace(",", " , ")).ranges == Profile.parse(text).ranges
    assert str(Profile.parse(text)) == text


def test_one_number_fixes_all_three():
    assert Profile.parse("batch=4").ranges == {"batch": (4, 4, 4)}


@pytest.mark.parametrize(
    "text",
    ["", "batch", "batch=", "=1:2:3", "batch=1:2", "batch=1..2..3", "batch=-1:2:3", "batch=1:2:3,", "batch=1,batch=2",
     "batch=1:2:3 length=4", "batch=a:b:c"],
)  # fmt: skip
def test_text_that_is_no_profile(text):
    with pytest.raises(SignatureError) as caught:
        Profile.parse(text)
    assert caught.value.message == f"{text!r} is not a profile"
    assert caught.value.remedy == "Write AXIS=MIN:OPT:MAX, for example batch=1:1:4,sequence=4:16:52."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batch=4:2:8", "axis batch: 4..2..8 is not a range"),
        ("batch=1,text.length=0", "axis length: 0..0..0 is not a range"),
        ("text.=1", "axis name '' is not an identifier"),
    ],
)
def test_a_profile_of_what_is_no_range_or_no_axis(text, said):
    with pytest.raises(SignatureError, match=re.escape(said)):
        Profile.parse(text)


def test_a_profile_gives_the_axes_of_a_component_its_ranges():
    assert Profile.parse("batch=1:2:3").of("text", TEXT.axes) == (Axis("batch", 1, 2, 3), LENGTH)
    assert Profile.parse("text.length=4").of("text", TEXT.axes) == (BATCH, Axis("length", 4, 4, 4))


@pytest.mark.parametrize("text", ["batch=1:2:3,text.batch=4:4:5", "text.batch=4:4:5,batch=1:2:3"])
def test_what_is_said_of_the_component_itself_holds_whatever_is_said_of_all(text):
    assert Profile.parse(text).of("text", TEXT.axes)[0] == Axis("batch", 4, 4, 5)
    assert Profile.parse(text).of("image", TEXT.axes)[0] == Axis("batch", 1, 2, 3)


@pytest.mark.parametrize("text", ["width=1:2:3", "image.batch=1", "image.length=3,width=2"])
def test_a_profile_of_other_axes_is_none(text):
    assert Profile.parse(text).of("text", TEXT.axes) is None


def test_a_profile_beyond_the_signature_is_refused():
    with pytest.raises(SignatureError, match=r"the profile batch=1:2:9 is outside 1\.\.8"):
        Profile.parse("batch=1:2:9").of("text", TEXT.axes)


# shapes alone


@given(st.integers(0, 9), st.integers(1, 7))
def test_shapes_are_checked_as_arrays_are(batch, length):
    given_ = feeds(batch, length)
    shapes = {name: array.shape for name, array in given_.items()}
    found = []
    for check, what in ((TEXT.check, given_), (TEXT.check_shapes, shapes)):
        try:
            found.append(check(what))
        except SignatureError as error:
            found.append((type(error), error.remedy))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"pixels": (1, 3, 9, 8)}, "input pixels is [1, 3, 9, 8]"),
        ({"pixels": (3, 8, 8)}, "input pixels is [3, 8, 8]"),
        ({"pixels": (9, 3, 8, 8)}, "input pixels is [9, 3, 8, 8]: batch 9 is outside 1..8"),
        ({}, "inputs do not fit: missing pixels"),
        ({"pixels": (1, 3, 8, 8), "mask": (1,)}, "inputs do not fit: unknown mask"),
    ],
)
def test_shapes_that_do_not_fit_are_said_without_a_dtype(shapes, said):
    with pytest.raises(SignatureError) as caught:
        IMAGE.check_shapes(shapes)
    assert caught.value.message == said


@pytest.mark.parametrize(
    ("dtype", "strict", "taken"),
    [("int64", None, False), ("int64", False, True), ("float32", None, True), ("float32", True, False)],
)
def test_values_beyond_the_bounds_are_taken_or_refused_as_declared(dtype, strict, taken):
    spec = TensorSpec("x", dtype, (2,), bounds=(0, 10), strict=strict)
    signature = Signature((spec,), ())
    signature.check({"x": np.array([0, 9], dtype)})
    beyond = {"x": np.array([0, 1000], dtype)}
    if taken:
        signature.check(beyond)
    else:
        with pytest.raises(SignatureError, match="1000"):
            signature.check(beyond)


def test_a_strict_input_refuses_what_is_no_number():
    spec = TensorSpec("x", "float32", (2,), bounds=(0, 10), strict=True)
    with pytest.raises(SignatureError, match="nan"):
        Signature((spec,), ()).check({"x": np.array([1, np.nan], np.float32)})
