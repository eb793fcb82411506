from types import SimpleNamespace

import pytest

from torchlift.errors import InputError
from torchlift.pipelines.batches import SIXTH, batch_size, batch_sizes, cut, slices
from torchlift.signature import Axis


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


@pytest.mark.parametrize("size", [1.5, "8", True, None])
def test_only_a_whole_number_is_a_batch_size(size):
    axis = Axis("batch", 1, 4, 8)
    if size is None:
        assert batch_size(axis, size) == 4
        return
    with pytest.raises(InputError, match=rf"batch size {size!r} is {type(size).__name__}"):
        batch_size(axis, size)
