from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchlift.declare.answers import Answer, Embedding, Labels, Raw
from torchlift.errors import InputError
from torchlift.processing.answers import finished, l2_normalize, named, sigmoid, softmax

NAMES = ("cat", "dog", "fox")
LOGITS = np.array([[0.0, 2.0, 1.0], [3.0, 3.0, -1.0]], dtype=np.float32)

ROWS = hnp.array_shapes(min_dims=1, max_dims=3, max_side=6)
ANY_FLOAT32 = hnp.arrays(np.float32, ROWS, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Embedding(), [[0.6, 0.8]]),
        (Embedding(normalize=False), [[3, 4]]),
        (Labels(("a", "b"), top=1, activation="none"), [[("b", 4)]]),
        (Raw(), [[3, 4]]),
    ],
)
def test_every_kind_of_answer_is_carried_out(answer: Answer, expected: object) -> None:
    found = finished(answer, np.array([[3, 4]], np.float32))
    if isinstance(found, np.ndarray):
        np.testing.assert_allclose(found, np.array(expected, np.float32), rtol=1e-6)
    else:
        assert found == expected


def test_what_is_no_kind_of_answer_is_not_handed_out_as_it_is() -> None:
    with pytest.raises(TypeError, match="str is no kind of answer"):
        finished("labels", np.zeros((1, 2), np.float32))  # type: ignore[arg-type]


def test_names_the_best_first() -> None:
    rows = named(Labels(NAMES, top=2, activation="none"), LOGITS)
    assert rows == [[("dog", 2.0), ("fox", 1.0)], [("cat", 3.0), ("dog", 3.0)]]


def test_softmax_scores() -> None:
    (row,) = named(Labels(NAMES), LOGITS[:1])
    exact = np.exp([2.0, 1.0, 0.0]) / np.exp([2.0, 1.0, 0.0]).sum()
    assert [name for name, _ in row] == ["dog", "fox", "cat"]
    assert [score for _, score in row] == pytest.approx(exact, rel=1e-6)
    assert all(type(score) is float for _, score in row)


def test_sigmoid_scores_are_independent() -> None:
    (row,) = named(Labels(NAMES, top=1, activation="sigmoid"), LOGITS[:1])
    assert row == [("dog", pytest.approx(1 / (1 + np.exp(-2.0)), rel=1e-6))]


def test_equal_scores_are_ordered_by_the_logits_then_by_the_names() -> None:
    (row,) = named(Labels(NAMES, activation="sigmoid"), np.array([[100.0, 200.0, 100.0]], dtype=np.float32))
    assert [name for name, _ in row] == ["dog", "cat", "fox"]


def test_many_equal_scores_keep_the_order_of_the_names() -> None:
    names = tuple(f"class {i}" for i in range(1000))
    (row,) = named(Labels(names, top=1000), np.arange(1000, dtype=np.float32)[None] % 2)
    assert [name for name, _ in row] == [*names[1::2], *names[::2]]


def test_no_rows() -> None:
    assert named(Labels(NAMES), np.empty((0, 3), dtype=np.float32)) == []


def test_names_from_a_manifest_may_be_a_list() -> None:
    assert Labels(["a", "b"]) == Labels(("a", "b"))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (1, 2), (1, 4), (1, 3, 1)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"logits have shape \[.*\] for 3 label names"):
        named(Labels(NAMES), np.zeros(shape, dtype=np.float32))


def test_unusable_options_are_refused() -> None:
    with pytest.raises(InputError, match="no label names"):
        Labels(())
    with pytest.raises(InputError, match="label name 0 is int"):
        Labels(range(3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="top is 0"):
        Labels(NAMES, top=0)
    with pytest.raises(InputError, match="activation 'relu' is unknown"):
        Labels(NAMES, activation="relu")  # type: ignore[arg-type]


@given(ANY_FLOAT32)
def test_softmax_is_a_distribution_that_keeps_the_order(x: np.ndarray) -> None:
    y = softmax(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-5)
    assert (y >= 0).all()
    assert (np.take_along_axis(y, x.argmax(axis=-1, keepdims=True), axis=-1)[..., 0] == y.max(axis=-1)).all()


@given(hnp.arrays(np.float32, (3, 4), elements=st.floats(-50, 50, width=32)), st.floats(-50, 50, width=16))
def test_softmax_does_not_see_a_shift(x: np.ndarray, shift: float) -> None:
    np.testing.assert_allclose(softmax(x + np.float32(shift), axis=0), softmax(x, axis=0), rtol=1e-3, atol=1e-6)


def test_softmax_along_another_axis_and_in_half_precision() -> None:
    x = np.array([[1, 2], [3, 5]], dtype=np.float16)
    assert softmax(x).dtype == np.float32
    np.testing.assert_allclose(softmax(x, axis=0)[:, 1], np.exp([2, 5]) / np.exp([2.0, 5.0]).sum(), rtol=1e-6)


@given(ANY_FLOAT32)
def test_sigmoid_neither_overflows_nor_leaves_its_range(x: np.ndarray) -> None:
    with np.errstate(over="raise", invalid="raise"):
        y = sigmoid(x)
    assert y.dtype == np.float32
    assert ((y >= 0) & (y <= 1)).all()
    np.testing.assert_allclose(y + sigmoid(-x), 1, rtol=1e-6)


@given(ANY_FLOAT32)
def test_normalized_rows_have_length_one_and_zero_rows_stay_zero(x: np.ndarray) -> None:
    y = l2_normalize(x)
    assert y.dtype == np.float32
    assert y.shape == x.shape
    zero = ~x.any(axis=-1)
    np.testing.assert_allclose(np.linalg.norm(y.astype(np.float64), axis=-1), np.where(zero, 0, 1), atol=1e-6)
    assert (np.sign(y) * np.sign(x) >= 0).all()


def test_normalize_leaves_its_argument_alone() -> None:
    x = np.array([[3.0, 4.0]], dtype=np.float32)
    np.testing.assert_array_equal(l2_normalize(x), np.array([[0.6, 0.8]], dtype=np.float32))
    np.testing.assert_array_equal(x, [[3, 4]])
