import math

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchlift.errors import NoSignalError, VerificationError
from torchlift.evidence import Difference, Failure, GoldenCheck, Tolerance
from torchlift.messages import run_text
from torchlift.prove.goldens import Golden, require_signal
from torchlift.prove.numerics import (
    TOLERANCES,
    UNBOUNDED,
    compare,
    failures,
    verify_goldens,
    verify_invariance,
)
from torchlift.signature import Axis, Signature, TensorSpec

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ANYTHING = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, 1e-30, math.nan, math.inf, -math.inf])


@st.composite
def pairs(draw):
    """Two float32 arrays of one shape, often with equal elements."""
    shape = draw(SHAPES)
    reference = draw(hnp.arrays(np.float32, shape, elements=ANYTHING))
    noise = draw(hnp.arrays(np.float32, shape, elements=ANYTHING))
    return np.where(draw(hnp.arrays(bool, shape)), reference, noise), reference


def naive(candidate, reference):
    """The definition of :class:`Difference`, element by element, in Python's own floats."""
    a, b = [float(x) for x in candidate.flat], [float(x) for x in reference.flat]
    both = [(x, y) for x, y in zip(a, b, strict=True) if math.isfinite(x) and math.isfinite(y)]
    scale = max((abs(y) for _, y in both), default=0.0)
    absolute = [abs(x - y) for x, y in both]
    relative = [abs(x - y) / abs(y) for x, y in both if abs(y) > 1e-3 * scale]

    def median(values):
        values, n = sorted(values), len(values)
        return (values[(n - 1) // 2] + values[n // 2]) / 2 if n else 0.0

    def mean(values):
        return math.fsum(values) / len(values) if values else 0.0

    return Difference(
        max_abs=max(absolute, default=0.0),
        mean_abs=mean(absolute),
        median_abs=median(absolute),
        max_rel=max(relative, default=0.0),
        mean_rel=mean(relative),
        median_rel=median(relative),
        cosine=naive_cosine(candidate, reference),
        nan=sum(map(math.isnan, a)),
        inf=sum(map(math.isinf, a)),
        nonfinite_mismatch=sum(
            not (math.isfinite(x) and math.isfinite(y)) and x != y for x, y in zip(a, b, strict=True)
        ),
        scale=scale,
    )


def naive_cosine(candidate, reference):
    def rows(array):
        several = array.ndim > 1 and array.size > len(array)
        return [[float(x) for x in row.flat] for row in (array if several else [array])]

    def norm(row):
        return math.sqrt(math.fsum(x * x for x in row))

    kept = []
    for u, v in zip(rows(candidate), rows(reference), strict=True):
        finite = [(x, y) for x, y in zip(u, v, strict=True) if math.isfinite(x) and math.isfinite(y)]
        kept.append(([x for x, _ in finite], [y for _, y in finite]))
    longest = max(norm(v) for _, v in kept)
    cosines = [
        math.fsum(x * y for x, y in zip(u, v, strict=True)) / (norm(u) * norm(v)) if norm(u) else 0.0
        for u, v in kept
        if norm(v) > 1e-3 * longest
    ]
    return min(1.0, *cosines) if cosines else 1.0


@given(pairs())
def test_a_comparison_is_its_definition(pair):
    found, expected = compare(*pair), naive(*pair)
    for name in Difference.__dataclass_fields__:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9, abs=1e-12), name


@given(hnp.arrays(np.float32, SHAPES, elements=ANYTHING.filter(lambda x: not math.isnan(x))))
def test_an_array_agrees_with_itself(array):
    found = compare(array, array)
    assert (found.max_abs, found.max_rel, found.nonfinite_mismatch) == (0, 0, 0)
    assert found.cosine == pytest.approx(1)
    assert failures([GoldenCheck("opt", "y", found)], TOLERANCES["fp32"]) == ()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0, 2)])
def test_arrays_without_elements_agree(shape):
    empty = np.zeros(shape, np.float32)
    assert compare(empty, empty) == Difference(0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, np.float16])
def test_other_dtypes_are_compared_by_their_values(dtype):
    found = compare(np.array([0, 1, 1], dtype), np.array([0, 1, 0], dtype))
    assert (found.max_abs, found.scale) == (1, 1)


def test_the_smallest_cosine_of_the_rows_counts():
    found = compare(np.array([[1.0, 0], [0, 2], [1, 1]]), np.array([[3.0, 0], [0, 1], [1, 0]]))
    assert found.cosine == pytest.approx(math.cos(math.pi / 4))


def test_a_row_near_zero_has_no_direction():
    reference = np.array([[100.0, 100.0], [1e-3, 1e-3], [0, 0]])
    candidate = np.array([[100.0, 100.0], [-1e-3, 1e-3], [0, 1e-5]])
    assert compare(candidate, reference).cosine == pytest.approx(1)


def test_one_value_a_row_is_compared_as_one_vector():
    reference = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    candidate = reference + np.float32(0.02)
    found = compare(candidate, reference)
    assert found.cosine == pytest.approx(compare(candidate[:, 0], reference[:, 0]).cosine)
    assert failures([GoldenCheck("max", "score", found)], TOLERANCES["bf16"]) == ()


def test_arrays_of_different_shapes_are_not_compared():
    with pytest.raises(ValueError, match=r"shapes differ: \(2, 3\) and \(3, 2\)"):
        compare(np.zeros((2, 3)), np.zeros((3, 2)))


def rounded(array, bits):
    """float32 with its significand rounded to ``bits`` bits after the point: 10 is TF32, 7 is BF16."""
    drop = 23 - bits
    if drop == 0:
        return array
    whole = array.view(np.uint32).astype(np.uint64) + (1 << (drop - 1))
    return (whole >> drop << drop).astype(np.uint32).view(np.float32)


def network(x, layers, bits):
    """Dense layers whose operands are rounded to ``bits`` bits, as the hardware of that format does."""
    for matrix in layers:
        x = np.maximum(rounded(x, bits) @ rounded(matrix, bits), 0)
    return x


@pytest.mark.parametrize(
    ("bits", "passes"), [(23, {"fp32", "fp16", "bf16", "int8"}), (10, {"fp16", "bf16", "int8"}), (7, {"bf16", "int8"})]
)
def test_tf32_and_bf16_do_not_pass_for_fp32(bits, passes):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 256), np.float32)
    layers = [rng.standard_normal((256, 256), np.float32) / np.float32(128) ** 0.5 for _ in range(4)]
    exact = x.astype(np.float64)
    for matrix in layers:
        exact = np.maximum(exact @ matrix.astype(np.float64), 0)
    check = check_of(network(x, layers, bits), exact)
    assert {p for p, t in TOLERANCES.items() if not failures([check], t)} >= passes
    assert ("fp32" in passes) == (not failures([check], TOLERANCES["fp32"]))


def check_of(candidate, reference):
    return GoldenCheck("opt", "y", compare(np.asarray(candidate), np.asarray(reference)))


def test_what_is_off_is_told_with_the_numbers():
    checks = [
        check_of([1.0, 2.0, math.nan, math.inf], [1.0, 2.0, 3.0, 4.0]),
        check_of([1.0, 2.5], [1.0, 2.0]),
        check_of([[1.0, 0.1], [0.03, 0.05]], [[1.0, 0.1], [0.05, 0.03]]),
        check_of([1.0, 2.0], [1.0, 2.0]),
    ]
    where = {"golden": "opt", "output": "y"}
    assert failures(checks, Tolerance(0.1, 0.99)) == (
        Failure(kind="nonfinite", nan=1, inf=1, **where),
        Failure(kind="difference", difference=0.25, limit=0.1, **where),
        Failure(kind="cosine", difference=pytest.approx(0.88235, abs=1e-5), limit=0.99, **where),
    )


def test_infinities_on_both_sides_agree_only_with_the_same_sign():
    same = np.array([math.inf, -math.inf, 1.0])
    assert failures([check_of(same, same)], TOLERANCES["fp32"]) == ()
    assert failures([check_of(-same, same)], TOLERANCES["int8"]) == (
        Failure(kind="nonfinite", golden="opt", output="y", inf=2),
    )


@pytest.mark.parametrize("others", [[], [1.0, math.inf]])
def test_what_is_no_number_agrees_with_nothing_and_not_with_itself(others):
    check = check_of([math.nan, *others], [math.nan, *others])
    assert (check.difference.nan, check.difference.nonfinite_mismatch) == (1, 1)
    assert failures([check], UNBOUNDED)


def golden(**outputs):
    return Golden("opt", {}, {name: np.asarray(value, np.float32) for name, value in outputs.items()})


@pytest.mark.parametrize("value", [0.0, 1e-42, 9e-7])
def test_answers_near_zero_prove_nothing(value):
    with pytest.raises(NoSignalError, match=r"output y is nearly zero \(at most .*\) for the golden opt") as caught:
        require_signal([golden(x=[1.0], y=[2.0]), golden(y=[value, -value])])
    assert "any comparison with zeros would pass" in caught.value.remedy


def test_answers_that_are_no_numbers_prove_nothing():
    with pytest.raises(NoSignalError, match="output y holds 2 NaN for the golden opt") as caught:
        require_signal([golden(y=[1.0, math.nan, math.nan])])
    assert "Check the weights" in caught.value.remedy
    with pytest.raises(NoSignalError, match="output y is nearly zero"):
        require_signal([golden(y=[math.inf, -math.inf])])


def test_infinite_answers_among_others_and_a_silent_output_beside_another_are_compared():
    assert require_signal([golden(y=[1.0, -math.inf], loc=[0.0, 0.0])]) is None


def test_whole_numbers_and_nothing_at_all_may_be_zero():
    silent = Golden("opt", {}, {"ids": np.zeros(3, np.int64), "boxes": np.zeros((0, 4), np.float32)})
    assert require_signal([silent, golden(y=[0.0, 2e-6])]) is None


def run(feeds):
    return {"y": tiny.answer(feeds["x"])}


def test_goldens_are_compared_one_output_at_a_time():
    checks = verify_goldens(run, tiny.goldens())
    assert [(c.golden, c.output, c.difference.max_abs) for c in checks] == [
        ("min", "y", 0),
        ("opt", "y", 0),
        ("max", "y", 0),
    ]


def test_an_output_of_another_shape_is_no_answer():
    with pytest.raises(VerificationError) as caught:
        verify_goldens(lambda feeds: {"y": np.zeros((4, 24), np.float32)}, tiny.goldens())
    assert caught.value.message == "output y is float32[4, 24] for the golden min, PyTorch's is float32[1, 24]"
    assert "turned into a constant" in caught.value.remedy


def test_an_output_of_another_dtype_is_no_answer():
    with pytest.raises(VerificationError, match=r"output y is float16\[1, 24\] .* PyTorch's is float32\[1, 24\]"):
        verify_goldens(lambda feeds: {"y": np.zeros((1, 24), np.float16)}, tiny.goldens())


OPT = list(tiny.goldens())[1]


def test_rows_that_mind_their_own_business():
    checks = verify_invariance(run, tiny.SIGNATURE, OPT)
    assert [run_text(c) for c in checks] == ["opt, rows turned", "opt, rows fewer"]
    assert failures(checks, TOLERANCES["fp32"]) == ()


def test_rows_that_subtract_their_mean_are_caught():
    def centred(feeds):
        y = tiny.answer(feeds["x"])
        return {"y": y - y.mean(axis=0)}

    (failure,) = failures(verify_invariance(centred, tiny.SIGNATURE, OPT), TOLERANCES["int8"])
    assert (failure.golden, failure.company) == ("opt", "fewer")


def test_rows_that_know_their_place_are_caught():
    def ranked(feeds):
        return {"y": tiny.answer(feeds["x"]) * (1 + np.arange(len(feeds["x"]))[:, None])}

    found = failures(verify_invariance(ranked, tiny.SIGNATURE, OPT), TOLERANCES["int8"])
    assert "turned" in {failure.company for failure in found}


def test_a_single_row_has_no_company():
    assert verify_invariance(run, tiny.SIGNATURE, next(iter(tiny.goldens()))) == ()


def test_a_component_without_a_batch_has_no_rows():
    signature = Signature((TensorSpec("x", "float32", ("length", tiny.WIDTH)),), (), (Axis("length", 1, 4, 8),))
    assert verify_invariance(run, signature, OPT) == ()


def test_the_least_batch_is_not_undercut():
    signature = Signature(tiny.SIGNATURE.inputs, tiny.SIGNATURE.outputs, (Axis("batch", 4, 4, 8),))
    assert [run_text(c) for c in verify_invariance(run, signature, OPT)] == ["opt, rows turned"]


def test_inputs_and_outputs_without_rows_stay_as_they_are():
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 2)), TensorSpec("scale", "float32", (2,))),
        (TensorSpec("y", "float32", ("batch", 2)), TensorSpec("total", "float32", (1,))),
        (Axis("batch", 1, 3, 4),),
    )
    seen = []

    def scaled(feeds):
        seen.append(feeds)
        y = feeds["x"] * feeds["scale"]
        return {"y": y, "total": y.sum(keepdims=True)}

    feeds = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "scale": np.array([2, 3], np.float32)}
    checks = verify_invariance(scaled, signature, Golden("opt", feeds, {}))
    assert {c.output for c in checks} == {"y"}
    assert all(f["scale"] is feeds["scale"] for f in seen)
    assert seen[1]["x"].tolist() == [[4, 5], [0, 1], [2, 3]]
    assert seen[2]["x"].tolist() == [[0, 1], [2, 3]]


LAST = Signature(
    (TensorSpec("x", "float32", (2, "batch")),),
    (TensorSpec("y", "float32", (3, "batch")), TensorSpec("mean", "float32", ())),
    (Axis("batch", 1, 4, 8),),
)


@pytest.mark.parametrize(("mix", "passes"), [(0.0, True), (1.0, False)])
def test_rows_may_lie_along_another_dimension(mix, passes):
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)

    def run(feeds):
        mean = feeds["x"].mean(axis=1, keepdims=True)
        return {"y": np.repeat(feeds["x"][:1] + mix * mean[:1], 3, axis=0), "mean": feeds["x"].mean()}

    checks = verify_invariance(run, LAST, Golden("opt", {"x": x}, {}))
    assert [run_text(c) for c in checks] == ["opt, rows turned", "opt, rows fewer"]
    assert (failures(checks, TOLERANCES["fp32"]) == ()) is passes
