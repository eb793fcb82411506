"""Outputs whose columns have different units are compared group by group, embeddings and logits as a whole."""

import numpy as np
import pytest

from torchlift.declare.answers import Embedding, Labels, Raw
from torchlift.declare.check import completed_answers
from torchlift.errors import InputError, SignatureError
from torchlift.evidence import Tolerance
from torchlift.messages import failure_text
from torchlift.prove.columns import columns_of, found_columns
from torchlift.prove.goldens import Golden
from torchlift.prove.judges import judge_by
from torchlift.prove.numerics import TOLERANCES, Judge, failures, verify_goldens, verify_invariance
from torchlift.signature import Axis, Signature, TensorSpec

RNG = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def shares(*shape):
    return RNG.uniform(0, 1, shape).astype(np.float32)


def detections(rows=60):
    """Boxes in pixels, and 81 probabilities: float32 [rows, 85]."""
    return np.concatenate([640 * shares(rows, 4), shares(rows, 81)], axis=1)


def ranges(*arrays):
    return [group.ranges for group in found_columns(arrays)]


@pytest.mark.parametrize("rows", [(60, 85), (6, 10, 85)])
def test_boxes_and_probabilities_are_two_groups(rows):
    y = detections()
    found = found_columns([y.reshape(rows)])
    assert [group.ranges for group in found] == [((4, 85),), ((0, 4),)]
    assert [group.scale for group in found] == [y[:, 4:].max(), y[:, :4].max()]


def test_the_scale_of_a_column_is_that_over_all_goldens():
    small, large = detections(4), detections(40)
    small[:, :4] /= 1000
    (_, boxes) = found_columns([small, large])
    assert boxes.scale == np.abs(large).max()


def test_probabilities_that_are_all_small_and_spread_are_one_group_beside_boxes():
    array = detections()
    array[:, 4:] *= np.float32(10.0) ** RNG.uniform(-7, -1, 81).astype(np.float32)
    array[:, 9] = 0
    assert ranges(array) == [((4, 85),), ((0, 4),)]


def test_the_columns_of_a_few_units_may_alternate():
    points = np.stack([300 * shares(40, 17), 300 * shares(40, 17), shares(40, 17)], axis=-1).reshape(40, 51)
    confident = tuple((n, n + 1) for n in range(2, 51, 3))
    assert ranges(points)[0] == confident


def test_columns_that_are_near_zero_stay_with_the_smallest_group():
    array = np.concatenate([100 * shares(40, 2), shares(40, 3), np.zeros((40, 1), np.float32)], axis=1)
    assert ranges(array) == [((2, 6),), ((0, 2),)]


def test_columns_that_are_zero_in_most_places_begin_no_group():
    seldom = np.zeros((40, 2), np.float32)
    seldom[7, 0] = 0.5
    assert ranges(np.concatenate([100 * shares(40, 2), seldom], axis=1)) == [((0, 4),)]


def outlying():
    hidden = normal(8, 16, 256)
    hidden[..., [17, 138]] *= 300  # as the hidden states of trained transformers have them
    return hidden


def biased():
    logits = normal(64, 1000, scale=3)
    logits += RNG.standard_normal(1000).astype(np.float32) * 4
    return logits


ONE_UNIT = {
    "embedding": normal(73, 512),
    "narrow embedding": normal(73, 16, scale=5),
    "a state with two large columns": outlying(),
    "logits with a bias": biased(),
    "rectified features": np.maximum(normal(73, 256, scale=4) - RNG.uniform(0, 12, 256).astype(np.float32), 0),
    "softmax of a trained classifier": np.exp(normal(73, 10) * 0.1 + np.arange(0, 30, 3, dtype=np.float32) - 30),
    "scales that spread without a gap": normal(73, 64) * np.geomspace(1, 1000, 64, dtype=np.float32),
    "few rows, of which one column is small by chance": np.array([[5.0, 0.001, 300.0]] * 3, np.float32),
    "zeros": np.zeros((73, 8), np.float32),
}


@pytest.mark.parametrize("name", ONE_UNIT)
def test_an_output_of_one_unit_stays_one_group(name):
    assert len(found_columns([ONE_UNIT[name]])) <= 1


@pytest.mark.parametrize(
    ("axis", "shape"), [(1, ("batch", 84, None)), (1, ("batch", 84, 5000)), (-1, ("batch", 7, 84))]
)
def test_columns_may_lie_along_another_dimension(axis, shape):
    y = np.concatenate([640 * shares(2, 4, 7), shares(2, 80, 7)], axis=1)
    spec = TensorSpec("y", "float32", shape)
    there = Signature(signature().inputs, (spec,), signature().axes)
    y = y if axis == 1 else np.ascontiguousarray(y.swapaxes(1, 2))
    for answer in (Raw(), Raw(groups=(4, 80))):
        found = {group.ranges: group for group in columns_of(there, [golden(y)] * 3, {"y": answer})["y"]}
        assert {*found} == {((0, 4),), ((4, 84),)}
        assert {group.axis for group in found.values()} == {axis}
        probabilities = found[((4, 84),)].of(y)
        assert (probabilities.max(), probabilities.size) == (found[((4, 84),)].scale, 2 * 80 * 7)


def signature(width=85, dtype="float32"):
    return Signature(
        (TensorSpec("x", "float32", ("batch", 2)),),
        (TensorSpec("y", dtype, ("batch", width)),),
        (Axis("batch", 1, 8, 64),),
    )


def golden(y):
    return Golden("opt", {"x": normal(len(y), 2)}, {"y": y})


def test_declared_groups_count_however_few_rows_there_are():
    y = np.array([[5.0, 0.001, 300.0]], np.float32)
    found = columns_of(signature(3), [golden(y)], {"y": Raw(groups=(1, 2))})
    assert [group.ranges for group in found["y"]] == [((0, 1),), ((1, 3),)]
    assert [group.scale for group in found["y"]] == [5.0, 300.0]


def test_one_declared_group_is_the_whole_output():
    assert columns_of(signature(), [golden(detections())], {"y": Raw(groups=(85,))}) == {}


@pytest.mark.parametrize("answer", [Embedding(), Labels(tuple(map(str, range(85))))])
def test_what_is_declared_to_have_one_unit_has_one(answer):
    assert columns_of(signature(), [golden(detections())], {"y": answer}) == {}


@pytest.mark.parametrize("spec", [TensorSpec("y", "int64", ("batch", 85)), TensorSpec("y", "float32", ("batch", None))])
def test_whole_numbers_and_columns_whose_number_varies_have_no_groups(spec):
    y = detections().astype(spec.dtype)
    there = Signature(signature().inputs, (spec,), signature().axes)
    assert columns_of(there, [golden(y)], {}) == {}


@pytest.mark.parametrize("groups", [(0, 85), (-1, 86), (1.0, 84), (True, 84)])
def test_a_group_has_a_column(groups):
    with pytest.raises(InputError, match="groups is"):
        Raw(groups=groups)


@pytest.mark.parametrize("spec", [TensorSpec("y", "float32", ("batch", 84)), TensorSpec("y", "float32", ("batch",))])
def test_declared_groups_add_up_to_a_dimension(spec):
    with pytest.raises(SignatureError, match=r"output y .* groups of 85 columns are declared"):
        completed_answers(Signature(signature().inputs, (spec,), signature().axes), {"y": Raw(groups=(4, 1, 80))})


def judged(y, answers=None):
    return Judge(columns_of(signature(y.shape[-1]), [golden(y)], answers or {}))


def wrong(reference, answer, tolerance, judge):
    return failures(verify_goldens(lambda feeds: {"y": answer}, [golden(reference)], judge), tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_probability_that_is_off_is_found_beside_boxes(precision):
    y = detections()
    off = y.copy()
    off[3, 20] += 0.7  # a thousandth of 640
    loose = Tolerance(TOLERANCES[precision].scaled, 0.9)
    assert not wrong(y, off, Tolerance(1e-2, 0.9), Judge())
    (failure,) = [found for found in wrong(y, off, loose, judged(y)) if found.columns]
    assert (failure.kind, failure.columns) == ("difference", ((4, 85),))
    assert failure.difference == pytest.approx(0.7 / y[:, 4:].max())
    assert "y[..., 4:85] at opt: off by" in failure_text(failure)


def test_columns_along_another_dimension_are_told_as_such():
    y = np.ascontiguousarray(detections().reshape(6, 10, 85).swapaxes(1, 2))
    off = y.copy()
    off[:, 20] += 0.7
    there = Signature(signature().inputs, (TensorSpec("y", "float32", ("batch", 85, None)),), signature().axes)
    judge = Judge(columns_of(there, [golden(y)], {}))
    assert "y[:, 4:85] at opt" in failure_text(wrong(y, off, TOLERANCES["bf16"], judge)[-1])


def test_a_row_whose_own_values_are_small_is_judged_by_the_scale_of_all_goldens():
    y = detections()
    row = y[:1].copy()
    row[:, 4:] *= 1e-3
    off = row.copy()
    off[:, 4:] += np.float32(0.02)
    assert wrong(row, off, TOLERANCES["bf16"], judged(y)) == ()
    assert wrong(row, off, TOLERANCES["bf16"], judged(row, {"y": Raw(groups=(4, 81))}))


def test_what_fp32_rounds_at_the_scale_of_the_whole_is_no_failure():
    y = detections()
    assert wrong(y, y + np.float32(5e-4), TOLERANCES["fp32"], judged(y)) == ()  # 8e-7 of 640, 5e-4 of a probability
    assert wrong(y, y + np.float32(5e-2), TOLERANCES["fp32"], judged(y))


@pytest.mark.parametrize("name", ["embedding", "a state with two large columns", "logits with a bias"])
def test_what_bf16_rounds_in_an_output_of_one_unit_passes(name):
    y = ONE_UNIT[name].reshape(-1, ONE_UNIT[name].shape[-1])
    rounded = (y.view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32)
    assert wrong(y, rounded, TOLERANCES["bf16"], judged(y)) == ()


def test_rows_that_depend_on_their_neighbours_in_a_small_group_are_caught():
    y = detections(8)
    offset = np.concatenate([np.zeros(4), np.ones(81)]).astype(np.float32)

    def run(feeds):
        return {"y": y[: len(feeds["x"])] + offset * (len(feeds["x"]) - 8) * np.float32(0.02)}

    judge = Judge(columns_of(signature(), [golden(detections())], {}))
    found = failures(verify_invariance(run, signature(), golden(y), judge=judge), TOLERANCES["fp32"])
    assert ("fewer", ((4, 85),)) in {(failure.company, failure.columns) for failure in found}


def test_answers_at_padding_are_not_compared_where_a_mask_is_declared():
    signature = Signature(
        tuple(TensorSpec(name, "int64", ("batch", 3), bounds=(0, 9)) for name in ("ids", "mask")),
        (TensorSpec("hidden", "float32", ("batch", 3, 4)),),
        (Axis("batch", 1, 2, 4),),
    )
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    hidden = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    golden = Golden("opt", {"ids": np.zeros((2, 3), np.int64), "mask": mask}, {"hidden": hidden})
    other = hidden.copy()
    other[0, 2] += 5

    def judged(**declared):
        judge = judge_by(signature, {"hidden": Raw(**declared)}, [golden], None, TOLERANCES["fp32"])
        return failures(verify_goldens(lambda feeds: {"hidden": other}, [golden], judge), TOLERANCES["fp32"])

    assert judged()
    assert not judged(mask="mask")
    other[1, 2] += 5
    assert judged(mask="mask")
    with pytest.raises(SignatureError):
        completed_answers(signature, {"hidden": Raw(mask="nothing")})
