"""Sizes that follow from axes: what an expression may hold, and what it gives."""

from __future__ import annotations

import pytest

from torchlift.dims import names_in, size_of
from torchlift.errors import SignatureError
from torchlift.signature import Axis, Signature, TensorSpec

SIZES = {"height": 224, "width": 100, "samples": 16000}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("height", 224),
        ("height // 4", 56),
        ("2 * width", 200),
        ("(samples - 400) // 320 + 1", 49),
        ("height * width", 22400),
        ("-(-width // 32)", 4),
        ("max(1, width - 200)", 1),
        ("min(height, width) % 7", 2),
    ],
)
def test_it_has_a_value(expression: str, expected: int) -> None:
    assert size_of(expression, SIZES) == expected


@pytest.mark.parametrize(
    "text",
    ["", "height /", "height / 2", "height ** 2", "__import__('os')", "abs(height)", "height.x", "1.5", "True",
     "[height]", "lambda: 1", "max(height)", "height if 1 else 2", "1" + "+1" * 200, "(" * 150],
)  # fmt: skip
def test_nothing_else_is_an_expression(text: str) -> None:
    with pytest.raises(SignatureError):
        size_of(text, SIZES)


def test_it_names_the_axis_without_a_size() -> None:
    assert names_in("a // 4 + max(b, 2)") == {"a", "b"}
    with pytest.raises(SignatureError, match="depth"):
        size_of("depth // 4", SIZES)


def test_a_division_by_zero_is_an_error() -> None:
    with pytest.raises(SignatureError):
        size_of("height // (width - 100)", SIZES)


def _signature(inputs: tuple[int | str | None, ...], outputs: tuple[int | str | None, ...], **axis: int) -> Signature:
    return Signature(
        (TensorSpec("x", "float32", inputs),),
        (TensorSpec("y", "float32", outputs),),
        (Axis("height", 64, 224, 512, **axis),),
    )


def test_an_output_may_have_one_and_is_held_to_it() -> None:
    import numpy as np

    spec = _signature((1, "height"), (1, "height // 4")).outputs[0]
    assert spec.shape_at({"height": 64}) == (1, 16)
    assert spec.elements_at({"height": 64}) == 16
    assert spec.fits(np.zeros((1, 16), np.float32), {"height": 64})
    assert not spec.fits(np.zeros((1, 17), np.float32), {"height": 64})


def test_an_input_has_none() -> None:
    with pytest.raises(SignatureError):
        _signature((1, "2 * height"), (1, "height"))


def test_a_size_is_never_negative_and_its_axes_are_known() -> None:
    with pytest.raises(SignatureError):
        _signature((1, "height"), (1, "height - 100"))
    with pytest.raises(SignatureError, match="depth"):
        _signature((1, "height"), (1, "depth // 2"))


def test_a_step_admits_multiples_only() -> None:
    import numpy as np

    signature = _signature((1, "height"), (1, "height"), step=32)
    assert signature.check({"x": np.zeros((1, 96), np.float32)}) == {"height": 96}
    with pytest.raises(SignatureError) as caught:
        signature.check({"x": np.zeros((1, 100), np.float32)})
    assert caught.value.axis == "height"
    assert [*signature.axes[0].sizes_between(65, 128)] == [96, 128]


def test_a_step_divides_the_range() -> None:
    with pytest.raises(SignatureError):
        Axis("height", 64, 230, 512, step=32)
    with pytest.raises(SignatureError):
        Axis("height", 64, 224, 512, step=0)
    assert Axis.parse("height", "64..224..512/32") == Axis("height", 64, 224, 512, step=32)
    with pytest.raises(SignatureError):
        Axis("height", 64, 224, 512, step=32).within(64, 100, 128)
