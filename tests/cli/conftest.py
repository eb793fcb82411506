"""What the tests of the command line share: shipped bundles and a picture."""

import shutil

import pytest
from shipped import clip, net, pictures  # noqa: F401


@pytest.fixture
def clip_copy(clip, tmp_path):  # noqa: F811
    """A copy of the Chinese-CLIP bundle that a test may change."""
    return shutil.copytree(clip.path, tmp_path / "clip")


@pytest.fixture
def net_copy(net, tmp_path):  # noqa: F811
    """A copy of the module's bundle that a test may change."""
    return shutil.copytree(net.path, tmp_path / "net")


@pytest.fixture
def picture(tmp_path):
    """A picture's file."""
    file = tmp_path / "picture.png"
    pictures(1)[0].save(file)
    return file
