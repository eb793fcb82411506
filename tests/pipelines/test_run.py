import numpy as np
import pytest

from torchlift.backends import Session
from torchlift.declare.inputs import ArrayInput, ImageInput
from torchlift.errors import InputError
from torchlift.pipelines.batches import slices
from torchlift.pipelines.columns import ArrayColumn, ImageColumn, Prepared
from torchlift.pipelines.run import AnySize, Batching, Loader, filled, run_prepared
from torchlift.signature import Axis, Signature, TensorSpec

HEIGHT, WIDTH = Axis("height", 1, 4, 64), Axis("width", 1, 4, 64)
PICTURES = Signature(
    (TensorSpec("image", "float32", ("batch", 3, "height", "width")),),
    (TensorSpec("brightness", "float32", ("batch",)),),
    (Axis("batch", 1, 4, 8), HEIGHT, WIDTH),
)


class Mean(Session):
    """The mean of each picture; remembers the shapes that it ran."""

    def __init__(self, signature=PICTURES):
        super().__init__(signature, "numpy")
        self.ran = []

    def _run(self, feeds):
        (array,) = feeds.values()
        self.ran.append(array.shape)
        return {"brightness": array.reshape(len(array), -1).mean(1).astype(np.float32)}

    def _prepare(self, feeds):
        raise NotImplementedError


@pytest.fixture
def loader():
    with Loader() as loader:
        yield loader


def pictures(shapes):
    """Pictures of these (height, width), each as bright as its number."""
    image = ImageInput(None, scale="byte")
    column = ImageColumn(
        PICTURES.inputs[0], image, lambda row: np.full((*shapes[row], 3), row, np.uint8), len(shapes), shapes
    )
    return Prepared.of([column])


def test_pictures_of_any_size_share_a_batch_with_those_of_their_size(loader):
    session, shapes = Mean(), [(4, 6), (8, 8), (4, 6), (4, 6), (8, 8), (4, 6), (4, 6)]
    found = run_prepared(session, pictures(shapes), Batching(session, PICTURES), loader)
    assert sorted(session.ran) == [(1, 3, 4, 6), (2, 3, 8, 8), (4, 3, 4, 6)]
    assert found["brightness"].tolist() == [*range(7)], "the order is that of the rows"


def test_all_rows_are_one_batch_only_where_that_is_asked_for(loader):
    rows = pictures([(4, 4)] * 7)
    apart, together = Mean(), Mean()
    first = run_prepared(apart, rows, Batching(apart, PICTURES), loader)
    second = run_prepared(together, rows, Batching(together, PICTURES, together=True), loader)
    assert [shape[0] for shape in apart.ran] == [4, 3]
    assert [shape[0] for shape in together.ran] == [7]
    np.testing.assert_array_equal(first["brightness"], second["brightness"])


def test_feeds_for_calibration_need_no_session(loader):
    rows = pictures([(4, 4)] * 6)
    runs = Batching(AnySize(), PICTURES).runs(rows)
    assert [len(feeds["image"]) for feeds in loader.feeds(rows, runs)] == [4, 2]


def test_an_input_without_a_batch_axis_goes_to_every_batch(loader):
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 2)), TensorSpec("k", "float32", ())),
        (TensorSpec("y", "float32", ("batch", 2)),),
        (Axis("batch", 1, 2, 2),),
    )
    x, k = np.arange(6, dtype=np.float32).reshape(3, 2), np.float32(10)

    class Times(Mean):
        def _run(self, feeds):
            self.ran.append(feeds["x"].shape)
            return {"y": feeds["x"] * feeds["k"]}

    session = Times(signature)
    rows = Prepared.of(ArrayColumn(spec, np.asarray(v)) for spec, v in zip(signature.inputs, (x, k), strict=True))
    np.testing.assert_array_equal(run_prepared(session, rows, Batching(session, signature), loader)["y"], x * 10)
    assert session.ran == [(2, 2), (1, 2)]
    assert ArrayInput() == ArrayInput()


def test_inputs_of_different_lengths_are_refused():
    signature = Signature(
        tuple(TensorSpec(name, "float32", ("batch", 2)) for name in "ab"), (), (Axis("batch", 1, 2, 2),)
    )
    with pytest.raises(InputError, match="a 2, b 3"):
        Prepared.of(ArrayColumn(s, np.zeros((n, 2), np.float32)) for s, n in zip(signature.inputs, (2, 3), strict=True))


@pytest.mark.parametrize("position", [0, 1, 2])
def test_rows_are_filled_up_along_their_dimension(position):
    part = np.moveaxis(np.arange(12).reshape(2, 2, 3), 0, position)
    np.testing.assert_array_equal(filled(part, 5, position), part.take([0, 1, 1, 1, 1], position))
    assert filled(part, 1, position) is part


@pytest.mark.parametrize("count", [1, 2, 6])
def test_no_more_than_the_next_part_is_prepared_ahead(loader, count):
    prepared = []
    parts = slices(count, 1)
    for done, part in enumerate(loader.ahead(lambda part: prepared.append(part) or part, parts)):
        assert part == parts[done]
        assert len(prepared) <= done + 2
    assert prepared == parts


def test_an_error_while_preparing_reaches_the_caller(loader):
    def prepare(part):
        if part.start == 2:
            raise InputError("row 2")
        return part

    with pytest.raises(InputError, match="row 2"):
        list(loader.ahead(prepare, slices(5, 1)))
