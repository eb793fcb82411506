"""What a task does with arrays before anything is asked about them."""

import numpy as np
import pytest
import tiny

from torchlift.datasets import ArrayData
from torchlift.errors import DataError
from torchlift.pipelines.run import Loader
from torchlift.tasks.samples import scan_arrays


@pytest.fixture
def component(bundle):
    return bundle.manifest.component("model")


@pytest.mark.parametrize(("limit", "rows"), [(None, range(6)), (3, [0, 2, 5]), (9, range(6))])
def test_rows_are_taken_evenly_up_to_the_limit(component, limit, rows):
    x = tiny.sample(6)
    scanned = scan_arrays(component, ArrayData("a.npz", {"x": x, "labels": np.arange(6)}, limit))
    assert scanned.rows.tolist() == [*rows]
    assert (scanned.count, scanned.prepared.count) == (6, len(rows))
    with Loader() as loader:
        fed = scanned.prepared.feeds(np.arange(len(rows)), {}, loader.decoders)
    assert fed.keys() == {"x"}
    np.testing.assert_array_equal(fed["x"], x[[*rows]])


def test_only_the_inputs_tell_arrays_from_others(component):
    def identity(x, **more):
        return scan_arrays(component, ArrayData("a.npz", {"x": x, **more})).identity

    x = tiny.sample(4)
    assert identity(x) == identity(x.copy(), labels=np.arange(4))
    assert identity(x) != identity(x + 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.arange(4)}, r"a\.npz has no array x; it has labels"),
        ({"x": np.zeros(4, np.float32)}, r"a\.npz: x is float32\[4\]"),
        ({"x": np.zeros((4, 32))}, r"a\.npz: input x is float64\[4, 32\]"),
        ({"x": np.zeros((0, 32), np.float32)}, r"a\.npz: .*the batch is empty"),
    ],
)
def test_arrays_that_do_not_fit_are_named(component, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        scan_arrays(component, ArrayData("a.npz", arrays))
    assert caught.value.remedy
