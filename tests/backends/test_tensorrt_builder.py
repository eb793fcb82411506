"""What a build is told, with a double of TensorRT's builder configuration."""

from types import SimpleNamespace

import pytest

from torchlift.backends.tensorrt.builder import _cached


class Config:
    """Takes timings of one GPU, and those of none."""

    def __init__(self):
        self.cache = None

    def create_timing_cache(self, timings):
        return None if timings == b"cut off" else timings

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        if cache not in (b"", b"of this GPU"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: self.cache + b", and more")


@pytest.mark.parametrize(
    ("before", "start"),
    [(None, b""), (b"of this GPU", b"of this GPU"), (b"of another", b""), (b"cut off", b"")],
)
def test_a_build_starts_from_the_timings_of_the_one_before_where_they_fit(tmp_path, before, start):
    file, config = tmp_path / "timing", Config()
    if before is not None:
        file.write_bytes(before)
    with _cached(config, file):
        assert config.cache == start
        assert (file.read_bytes() if file.is_file() else None) == before
    assert file.read_bytes() == start + b", and more"


def test_without_a_file_timings_are_not_kept():
    config = Config()
    with _cached(config, None):
        pass
    assert config.cache is None
