from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from shipped import pictures

from torchlift.errors import InputError
from torchlift.pipelines.batches import SIXTH, Loader, batch_sizes, cut, filled, listed, slices, taken
from torchlift.processing.image import ImageInput
from torchlift.signature import Axis

PREPARED = ImageInput((16, 16))


@pytest.fixture
def loader():
    loader = Loader()
    yield loader
    loader.close()


def test_slices_cover_every_row_once():
    assert slices(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]


@pytest.mark.parametrize(
    ("count", "sizes", "run", "batches"),
    [
        (7, range(1, 4), range(99), [(3, 3), (3, 3), (1, 1)]),
        (7, range(1, 5), [1, 3, 8], [(3, 3), (3, 3), (1, 1)]),
        (5, range(1, 9), [1], [(1, 1)] * 5),
        (6, range(1, 5), [4], [(4, 4), (2, 4)]),
        (5, range(1, 5), [4], [(4, 4), (1, 4)]),
        (7, range(1, 9), [1, 6], [(6, 6), (1, 1)]),
        (3, range(1, 9), [1, 6], [(3, 6)]),
        (2, range(1, 9), [1, 6], [(1, 1), (1, 1)]),
        (6, range(1, 5), [], [(4, 4), (2, 2)]),
        (2, range(4, 9), range(99), [(2, 4)]),
        (2, range(4, 9), [], [(2, 4)]),
        (13, (1, 8), range(99), [(8, 8), (5, 8)]),
        (11, (1, 8), range(99), [(8, 8), (1, 1), (1, 1), (1, 1)]),
        (3, (1, 1), [1], [(1, 1)] * 3),
    ],
)
def test_rows_make_batches_of_sizes_that_run(count, sizes, run, batches):
    parts = cut(count, sizes, lambda size: size in run)
    assert [(part.rows.stop - part.rows.start, part.size) for part in parts] == batches
    assert [i for part in parts for i in range(count)[part.rows]] == [*range(count)]


@pytest.mark.parametrize(
    ("covered", "sizes"), [(range(1, 65), (2, 16)), ([4], (4, 4)), ([3, 5, 7], (3, 7)), ([64], range(2, 17))]
)
def test_a_session_that_records_shapes_gets_two(covered, sizes):
    session, axis = SimpleNamespace(records=0, covers=lambda asked: asked["batch"] in covered), Axis("batch", 2, 8, 64)
    assert batch_sizes(axis, 16, session) == range(2, 17)
    session.records = 8
    assert batch_sizes(axis, 16, session) == sizes


def test_rows_that_count_may_be_a_smaller_part_where_single_ones_leave_much_idle():
    batches = [cut(count, (1, 64), lambda size: True, SIXTH) for count in (10, 11)]
    assert [len(parts) for parts in batches] == [10, 1]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_rows_are_taken_and_filled_up_along_their_dimension(position):
    array = np.moveaxis(np.arange(24).reshape(4, 2, 3), 0, position)
    part = taken(array, slice(1, 3), position)
    np.testing.assert_array_equal(part, array.take([1, 2], position))
    assert part.flags.c_contiguous
    np.testing.assert_array_equal(filled(part, 5, position), array.take([1, 2, 2, 2, 2], position))
    assert filled(part, 1, position) is part


def test_a_generator_is_listed():
    assert listed((n for n in range(3)), "numbers") == [0, 1, 2]


@pytest.mark.parametrize("single", ["a.png", b"x", Path("a.png"), np.zeros((4, 4, 3), np.uint8), pictures(1)[0], 7])
def test_one_in_place_of_a_list_is_refused(single):
    with pytest.raises(InputError, match=f"one {type(single).__name__} where a list of images is expected") as caught:
        listed(single, "images")
    assert caught.value.remedy == "Put it into a list."


def test_a_part_of_the_images_is_decoded_each_into_its_row(loader, tmp_path):
    images = pictures(5)
    images[3].save(tmp_path / "3.png")
    rows = loader.decoded(PREPARED, [*images[:3], tmp_path / "3.png", images[4]], slice(1, 5), "image")
    np.testing.assert_array_equal(rows, [PREPARED(image) for image in images[1:]])
    assert loader.decoded(PREPARED, images, slice(None), "image").shape == (5, 3, 16, 16)


def test_an_error_names_the_image_by_its_place_among_all(loader, tmp_path):
    good = pictures(1)[0]
    with pytest.raises(InputError, match="image 3 is not an image"):
        loader.decoded(PREPARED, [good, good, good, b"hello"], slice(2, 4), "image")
    with pytest.raises(InputError, match=r"row 1 \(.*no\.png\) does not exist"):
        loader.decoded(PREPARED, [good, tmp_path / "no.png"], slice(None), "row")


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
