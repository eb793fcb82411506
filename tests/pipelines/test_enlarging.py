"""Pictures in tiles: where they lie, and that they give what the whole picture gives."""

import numpy as np
import pytest

from torchlift.declare.answers import Picture
from torchlift.declare.inputs import ImageInput
from torchlift.errors import InputError, SignatureError
from torchlift.manifest import Component
from torchlift.pipelines import enlarging
from torchlift.pipelines.enlarging import Enlarger, spans
from torchlift.signature import Axis, Signature, TensorSpec

torch = pytest.importorskip("torch")
F = torch.nn.functional


def component(most=512, margin=9, dtype="int64", bounds=(1, 9), fixed=0, batch=4, **image):
    side = "height" if not fixed else f"{fixed} * height", "width" if not fixed else f"{fixed} * width"
    inputs = [TensorSpec("image", "float32", ("batch", 3, "height", "width"))]
    if not fixed:
        inputs.append(TensorSpec("factor", dtype, (), bounds=bounds))
    output = TensorSpec("output", "float32", ("batch", 3, *(side if fixed else (None, None))))
    axes = (Axis("batch", 1, 1, batch), Axis("height", 1, 16, most), Axis("width", 1, 16, most))
    answer = Picture(factor="" if fixed else "factor", margin=margin)
    return Component(
        "model", Signature(tuple(inputs), (output,), axes), "m", "g", "e", 20, 1, "k",
        inputs={"image": ImageInput(**image)}, answers={"output": answer},
    )  # fmt: skip


class Session:
    """An SRCNN with random weights in PyTorch; it remembers the shapes that it was given."""

    records = 0
    on_device = False

    def __init__(self, signature):
        self.signature, self.shapes = signature, []
        generator = torch.Generator().manual_seed(0)
        self.weights = [
            0.12 * torch.randn(o, i, k, k, generator=generator) for i, o, k in ((3, 8, 9), (8, 4, 1), (4, 3, 5))
        ]

    def covers(self, sizes):
        return True

    def run(self, feeds):
        self.signature.check(feeds)
        image, factor = torch.from_numpy(feeds["image"]), int(feeds["factor"])
        self.shapes.append(tuple(image.shape))
        x = F.interpolate(image, size=[side * factor for side in image.shape[2:]], mode="bicubic")
        first, second, third = self.weights
        x = F.conv2d(torch.relu(F.conv2d(torch.relu(F.conv2d(x, first, padding=4)), second)), third, padding=2)
        return {"output": x.numpy()}


@pytest.mark.parametrize(("size", "tile", "margin"), [(100, 30, 4), (31, 30, 14), (30, 30, 9), (1, 30, 9), (97, 11, 5)])
def test_tiles_cover_a_side_once_and_far_from_their_edges(size, tile, margin):
    found = spans(size, tile, margin)
    taken = [place for span in found for place in range(span.low, span.high)]
    assert taken == list(range(size))
    for span in found:
        end = span.start + min(tile, size)
        assert 0 <= span.start <= span.low < span.high <= end <= size
        assert span.start == 0 or span.low - span.start >= margin
        assert end == size or end - span.high >= margin


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_tiles_give_what_the_whole_gives(factor):
    enlarger = Enlarger.of(component())
    session = Session(enlarger.component.signature)
    source = np.random.default_rng(0).integers(0, 256, (97, 130, 3)).astype(np.uint8)
    whole = enlarger.enlarged(session, source, factor, budget=1 << 30)
    assert session.shapes == [(1, 3, 97, 130)]
    session.shapes.clear()
    tiled = enlarger.enlarged(session, source, factor, budget=8_000 * factor**2)
    assert len(session.shapes) > 1
    assert whole.std() > 20
    assert whole.shape == (97 * factor, 130 * factor, 3)
    apart = np.abs(tiled.astype(int) - whole)
    if factor == 3:  # thirds are rounded otherwise at another place: a value in the middle of two bytes may tip
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-4
    else:
        assert apart.max() == 0


def test_floats_of_tiles_are_those_of_the_whole_within_rounding():
    enlarger = Enlarger.of(component())
    session = Session(enlarger.component.signature)
    image = np.random.default_rng(0).random((1, 3, 60, 90), np.float32)
    whole = session.run(enlarger.feeds(image, 3))["output"]
    for span in spans(90, 45, 9):
        part = session.run(enlarger.feeds(image[..., span.start : span.start + 45].copy(), 3))["output"]
        inner = part[..., 3 * (span.low - span.start) : 3 * (span.high - span.start)]
        assert np.abs(inner - whole[..., 3 * span.low : 3 * span.high]).max() <= 1e-5


def test_a_margin_that_is_too_small_is_seen():
    """The test above can fail: with less than what the network looks at, tiles differ."""
    enlarger = Enlarger.of(component(margin=2))
    session = Session(enlarger.component.signature)
    source = np.random.default_rng(0).integers(0, 256, (97, 130, 3)).astype(np.uint8)
    whole = enlarger.enlarged(session, source, 2, budget=1 << 30)
    assert (enlarger.enlarged(session, source, 2, budget=8_000) != whole).any()


def test_small_tiles_share_a_batch_and_no_batch_exceeds_the_budget():
    enlarger = Enlarger.of(component(most=40))
    session = Session(enlarger.component.signature)
    source = np.zeros((100, 100, 3), np.uint8)
    enlarger.enlarged(session, source, 2, budget=4 * 40 * 40 * 4)
    assert {shape[1:] for shape in session.shapes} == {(3, 40, 40)}
    assert max(shape[0] for shape in session.shapes) == 4
    session.shapes.clear()
    enlarger.enlarged(session, source, 2, budget=2 * 40 * 40 * 4)
    assert max(shape[0] for shape in session.shapes) == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_pictures_one_pixel_wide(shape):
    enlarger = Enlarger.of(component(most=64))
    session = Session(enlarger.component.signature)
    assert enlarger.enlarged(session, np.zeros((*shape, 3), np.uint8), 3).shape == (3 * shape[0], 3 * shape[1], 3)


@pytest.mark.parametrize("factor", [0, -1, 2.5, 9, 1e9, float("nan"), float("inf"), True, "3", None])
def test_a_factor_that_is_none(factor):
    with pytest.raises(InputError):
        Enlarger.of(component()).checked(factor)


def test_factors_that_are_taken():
    assert Enlarger.of(component()).checked(3.0) == 3
    assert Enlarger.of(component(dtype="float32", bounds=(1, 4))).checked(2.5) == 2.5
    fixed = Enlarger.of(component(fixed=3))
    assert fixed.checked(None) == fixed.checked(3) == 3
    with pytest.raises(InputError):
        fixed.checked(2)


def test_an_enlarged_picture_that_memory_cannot_hold_is_refused(monkeypatch):
    enlarger = Enlarger.of(component())
    enlarger.require_memory(8_000, 8_000, 1, "picture 0")
    there = enlarging.this_machine()
    monkeypatch.setattr(enlarging, "this_machine", lambda: there)
    side = int((there.memory / 3) ** 0.5) + 1
    with pytest.raises(InputError) as error:
        enlarger.require_memory(side // 4, side, 4, "picture 0")
    assert f"{3 * (side // 4 * 4) * side * 4:,} bytes" in error.value.message


def test_what_cannot_be_cut_into_tiles_is_refused():
    with pytest.raises(InputError):
        Enlarger.of(component(most=64, margin=None)).tile(65, 10, 2)
    with pytest.raises(InputError):
        Enlarger.of(component(most=64, margin=32)).tile(65, 10, 2)
    with pytest.raises(InputError):
        Enlarger.of(component(most=64, dtype="float32")).tile(65, 10, 2.5)


def test_components_that_do_not_enlarge():
    with pytest.raises(SignatureError):
        Enlarger.of(component(size=(16, 16)))


def test_a_factor_must_be_an_input_with_bounds():
    with pytest.raises(SignatureError):
        component(bounds=None)
