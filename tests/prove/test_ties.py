"""Whole numbers and truth values are right or wrong, but at a near tie, where either answer is right."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from torchlift.evidence import Tolerance
from torchlift.messages import failure_text
from torchlift.prove.goldens import Golden
from torchlift.prove.numerics import TOLERANCES, Judge, failures, verify_goldens
from torchlift.prove.ties import Ties

FP32 = TOLERANCES["fp32"]
HALF, THREE = numpy_helper.from_array(np.array(0.5, np.float32), "half"), numpy_helper.from_array(np.array([3]), "k")
GRAPHS = {
    "argmax": [helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)],
    "argmax, kept and cast": [
        helper.make_node("ArgMax", ["x"], ["i"], axis=-1),
        helper.make_node("Cast", ["i"], ["j"], to=TensorProto.INT32),
        helper.make_node("Identity", ["j"], ["y"]),
    ],
    "argmin": [helper.make_node("ArgMin", ["x"], ["y"], axis=1, keepdims=0)],
    "topk": [helper.make_node("TopK", ["x", "k"], ["values", "y"], axis=1)],
    "above": [helper.make_node("Greater", ["x", "half"], ["y"])],
    "not above": [helper.make_node("Greater", ["x", "half"], ["b"]), helper.make_node("Not", ["b"], ["y"])],
    "cut": [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)],
    "rounded": [
        helper.make_node("Round", ["x"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.UINT8),
    ],
    "whole": [
        helper.make_node("ArgMax", ["x"], ["i"], axis=1),
        helper.make_node("Mul", ["i", "k"], ["p"]),
        helper.make_node("Cast", ["p"], ["y"], to=TensorProto.INT32),
    ],
}
TYPES = {"argmax, kept and cast": "INT32", "above": "BOOL", "not above": "BOOL", "rounded": "UINT8", "whole": "INT32"}


@pytest.fixture
def ties(tmp_path):
    """Write one of the graphs; returns what counts its ties."""

    def write(name, tolerance=FP32):
        kind = getattr(TensorProto, TYPES.get(name, "INT64"))
        outputs = [helper.make_tensor_value_info("y", kind, None)]
        read = {i for node in GRAPHS[name] for i in node.input}
        graph = helper.make_graph(
            GRAPHS[name],
            "whole",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])],
            outputs,
            [tensor for tensor in (HALF, THREE) if tensor.name in read],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, tmp_path / "model.onnx")
        return Ties(tmp_path / "model.onnx", tolerance)

    return write


def count(ties, x, answer, expected, dtype=np.int64):
    return ties("y", {"x": np.array(x, np.float32)}, np.array(answer, dtype), np.array(expected, dtype))


NEAR = [[1.0, 9.0, 9.0 - 1e-4], [9.0, 1.0, 2.0]]
"""The second and the third value of the first row tie within 1e-4 of 9; the second row is clear."""


@pytest.mark.parametrize("name", ["argmax", "argmax, kept and cast"])
def test_an_index_that_differs_at_a_near_tie_is_right(ties, name):
    found = ties(name)
    assert count(found, NEAR, [2, 0], [1, 0]) == 1
    assert count(found, NEAR, [0, 0], [1, 0]) == 0
    assert count(found, NEAR, [2, 1], [1, 0]) == 1


def test_the_least_may_tie_too(ties):
    assert count(ties("argmin"), [[5.0, 1.0, 1.0001]], [2], [1]) == 1
    assert count(ties("argmin"), [[5.0, 1.0, 1.1]], [2], [1]) == 0


@pytest.mark.parametrize("outside", [-1, 3, 2**40])
def test_an_index_outside_ties_with_nothing(ties, outside):
    assert count(ties("argmax"), NEAR, [outside, 0], [1, 0]) == 0


def test_indices_of_topk_may_change_places_where_their_values_tie(ties):
    x = [[5.0, 4.0, 4.0, 1.0]]
    assert count(ties("topk"), x, [[0, 2, 1]], [[0, 1, 2]]) == 2
    assert count(ties("topk"), x, [[1, 0, 2]], [[0, 1, 2]]) == 0


@pytest.mark.parametrize("name", ["above", "not above"])
def test_a_comparison_ties_where_both_sides_are_near(ties, name):
    x = [[0.5 + 1e-5, 0.9, 0.2]]
    assert count(ties(name), x, [[False, False, False]], [[True, True, False]], bool) == 1


def test_a_number_that_is_cut_ties_near_the_next_one(ties):
    x = [[2.99999, 7.5, 3.00001]]
    assert count(ties("cut"), x, [[3, 7, 2]], [[2, 7, 3]]) == 2
    assert count(ties("cut"), x, [[2, 8, 3]], [[2, 7, 3]]) == 0


def test_a_number_that_is_rounded_ties_near_the_half(ties):
    x = [[2.49999, 7.6]]
    assert count(ties("rounded"), x, [[3, 8]], [[2, 8]], np.uint8) == 1
    assert count(ties("rounded"), x, [[2, 7]], [[2, 8]], np.uint8) == 0


def test_a_looser_tolerance_finds_more_ties(ties):
    x = [[1.0, 9.0, 8.9]]
    assert count(ties("argmax"), x, [2], [1]) == 0
    assert count(ties("argmax", TOLERANCES["fp16"]), x, [2], [1]) == 1


def test_what_is_computed_from_whole_numbers_ties_with_nothing(ties):
    found = ties("whole", TOLERANCES["int8"])
    assert count(found, [[*range(10)]], [[28]], [[27]], np.int32) == 0
    assert ties("argmax")("z", {}, np.array([1]), np.array([2])) == 0


def judged(answers, expected, tolerance=FP32, near=None):
    goldens = [Golden(name, {}, {"y": np.array(y)}) for name, y in expected.items()]
    given = iter(answers.values())
    return verify_goldens(lambda _: {"y": np.array(next(given))}, goldens, Judge(near_ties=near))


def test_no_index_may_differ_in_fp32_however_large_it_is():
    checks = judged({"opt": [50_001, 7]}, {"opt": [50_000, 7]})
    (failure,) = failures(checks, FP32)
    assert (failure.kind, failure.difference, failure.limit) == ("differing", 0.5, 0)
    assert failure_text(failure) == "y at opt: 50% of the elements differ, at no near tie (at most 0%)"


def test_near_ties_are_counted_apart():
    (check,) = judged({"opt": [1, 2, 3]}, {"opt": [1, 2, 4]}, near=lambda *_: 1)
    assert (check.difference.elements, check.difference.differing, check.difference.near_ties) == (3, 0, 1)
    assert failures([check], FP32) == ()


def test_the_share_counts_over_all_goldens():
    expected = {"min": [3], "max": [*range(99)]}
    checks = judged({"min": [4], "max": [*range(99)]}, expected)
    assert failures(checks, Tolerance(0, 1, differing=0.01)) == ()
    (failure,) = failures(checks, Tolerance(0, 1, differing=0.009))
    assert (failure.golden, failure.difference) == ("min", 1.0)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_lower_precisions_may_differ_in_a_share(precision):
    right, share = [0] * 1000, TOLERANCES[precision].differing
    allowed = [*[1] * round(1000 * share), *right][:1000]
    assert failures(judged({"opt": allowed}, {"opt": right}), TOLERANCES[precision]) == ()
    assert failures(judged({"opt": [1, *allowed[:-1]]}, {"opt": right}), TOLERANCES[precision])


def test_whole_numbers_beyond_the_floats_are_compared_exactly():
    (check,) = judged({"opt": [2**60 + 1]}, {"opt": [2**60]})
    assert check.difference.differing == 1
