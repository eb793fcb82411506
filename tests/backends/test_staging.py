import time

import numpy as np
import pytest

from torchlift.backends.staging import PIECE, stage
from torchlift.errors import BackendError


@pytest.mark.parametrize("size", [0, 1, 1000, PIECE // 4, PIECE // 4 + 1, PIECE, 3 * PIECE + 5])
@pytest.mark.parametrize(("given", "read"), [("float32", "float32"), ("int64", "int32"), ("float32", "float16")])
def test_an_array_is_sent_whole_in_pieces_and_in_order(size, given, read):
    array, staged, sent = (np.arange(size) % 2000).astype(given), np.empty(size, read), []
    stage(array, staged, lambda part: sent.append(staged[part].copy()))
    np.testing.assert_array_equal(np.concatenate(sent), array.astype(read))
    assert max(piece.nbytes for piece in sent) <= PIECE
    assert (len(sent) > 1) is (staged.nbytes > PIECE)


SQUARE = np.arange(4_000_000, dtype=np.float32).reshape(2000, 2000)


@pytest.mark.parametrize("array", [np.float32(3).reshape(()), SQUARE, SQUARE.T, SQUARE[::2]])
def test_arrays_of_any_shape_and_order_are_staged(array):
    staged, sent = np.empty(array.shape, array.dtype), []
    stage(array, staged, sent.append)
    np.testing.assert_array_equal(staged, array)
    assert [part.start for part in sent[1:]] == [part.stop for part in sent[:-1]]
    assert (sent[0].start, sent[-1].stop) == (0, array.size)


def test_when_sending_fails_nothing_is_filled_any_more():
    def fail(part):
        raise BackendError("no room")

    array, staged = np.ones(20 * PIECE, np.int8), np.zeros(20 * PIECE, np.int8)
    for _ in range(20):
        with pytest.raises(BackendError, match="no room"):
            stage(array, staged, fail)
        staged[:] = 0
        time.sleep(0.002)
        assert not staged.any()
