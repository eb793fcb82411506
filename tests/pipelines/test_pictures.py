import numpy as np
import pytest

from torchlift.pipelines.pictures import KeptPictures


def pixels(seed, side=10):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


@pytest.mark.parametrize("memory", [0, 700, 1 << 20])
def test_pictures_are_kept_in_memory_and_beyond_it_in_a_file(memory):
    with KeptPictures(memory) as kept:
        for seed in range(5):
            kept.put(bytes([seed]), pixels(seed))
        for seed in reversed(range(5)):
            np.testing.assert_array_equal(kept.get(bytes([seed])), pixels(seed))
        assert kept.get(b"other") is None


def test_what_has_no_room_is_not_kept():
    with KeptPictures(memory=300, scratch=600) as kept:
        for seed in range(5):
            kept.put(bytes([seed]), pixels(seed))
        found = [kept.get(bytes([seed])) is not None for seed in range(5)]
    assert found == [True, True, True, False, False]


def test_a_full_disk_is_no_error(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with KeptPictures(memory=0) as kept:
        kept.put(b"a", pixels(0))
        assert kept.get(b"a") is None


def test_a_picture_is_kept_once():
    with KeptPictures(memory=600) as kept:
        kept.put(b"a", pixels(0))
        kept.put(b"a", pixels(0))
        kept.put(b"b", pixels(1))
        assert kept.get(b"b") is not None
