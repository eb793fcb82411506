"""What any iterable gives: arrays of NumPy, read once, at most so many bytes."""

import numpy as np
import pytest

from torchlift.datasets import ReadOptions, open_data, read_items
from torchlift.errors import DataError

torch = pytest.importorskip("torch")


def test_a_loader_of_torch_gives_arrays_of_numpy():
    images, labels = torch.rand(5, 3), torch.arange(5)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=2)
    first, *others = read_items(loader).items
    assert len(others) == 2
    assert [type(part) for part in first] == [np.ndarray, np.ndarray]
    np.testing.assert_array_equal(first[0], images[:2].numpy())
    np.testing.assert_array_equal(first[1], [0, 1])


def test_a_generator_is_read_once_and_its_buffer_may_be_used_again():
    buffer, asked = np.zeros(2, np.float32), []

    def samples():
        for value in range(3):
            asked.append(value)
            buffer[:] = value
            yield buffer, value

    found = read_items(samples()).items
    assert asked == [0, 1, 2]
    assert [inputs.tolist() for inputs, _ in found] == [[0, 0], [1, 1], [2, 2]]
    assert [target for _, target in found] == [0, 1, 2]


def test_a_dataset_with_a_length_and_an_index_alone_is_read_to_its_length():
    class Squares(torch.utils.data.Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, row):
            return torch.tensor([float(row)]), row * row

    assert [target for _, target in read_items(Squares()).items] == [0, 1, 4]


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (torch.tensor([1.5], dtype=torch.bfloat16), "float32", [1.5]),
        (torch.tensor([2.0], requires_grad=True), "float32", [2.0]),
        (np.int64(3), "int64", 3),
    ],
    ids=["bfloat16", "with gradients", "a number of NumPy"],
)
def test_tensors_become_arrays(value, dtype, expected):
    ((found, _),) = read_items([(value, 0)]).items
    assert found.dtype == dtype
    assert found.tolist() == expected


def test_dicts_lists_and_texts_stay_what_they_are():
    class Encoding(dict):
        pass

    item = (Encoding(ids=torch.tensor([1])), ["a", b"b", None, True])
    ((inputs, target),) = read_items([item]).items
    assert type(inputs) is dict
    assert inputs["ids"].tolist() == [1]
    assert target == ["a", b"b", None, True]


@pytest.mark.parametrize("given", [3, {"x": 1}, None], ids=["a number", "a dict", "None"])
def test_what_is_no_iterable_is_refused(given):
    with pytest.raises(DataError, match=type(given).__name__) as caught:
        read_items(given, "calibration")
    assert "`calibration=`" in caught.value.message


def test_no_samples_and_what_is_no_data_are_refused():
    with pytest.raises(DataError, match="no samples"):
        read_items(iter([]))
    with pytest.raises(DataError, match=r"item 1.*object"):
        read_items([(1, 1), (object(), 1)])


def test_what_an_iterable_raises_is_told_with_its_place():
    def samples():
        yield 1, 1
        raise KeyError("label")

    with pytest.raises(DataError, match="item 1: KeyError: 'label'") as caught:
        read_items(samples())
    assert isinstance(caught.value.__cause__, KeyError)


def test_more_than_the_memory_is_refused_before_the_rest_is_read():
    asked = []

    def samples():
        for value in range(10):
            asked.append(value)
            yield np.zeros(100, np.uint8), value

    with pytest.raises(DataError, match="4 items"):
        read_items(samples(), memory=350)
    assert asked == [0, 1, 2, 3]
    assert len(read_items(samples(), memory=1000).items) == 10


def test_opened_it_keeps_the_limit():
    data = read_items([(1, 1)])
    assert open_data(data, ReadOptions(limit=3)).limit == 3
    assert open_data(data).items == data.items
