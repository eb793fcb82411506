"""What the tests of the command line share: shipped bundles and a picture."""

import shutil

import gated
import pytest
import staged
from shipped import MEASURE, Shipped, clip, in_short_turns, net, pictures, torchlift  # noqa: F401


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


@pytest.fixture(autouse=True)
def short_turns(monkeypatch):
    """What is measured in this process is measured in short turns."""
    monkeypatch.setattr(MEASURE, in_short_turns)


@pytest.fixture
def unmeasured(monkeypatch):
    """Times are made up."""
    monkeypatch.setattr(MEASURE, staged.made_up)


@pytest.fixture
def in_this_process(monkeypatch):
    """Saves the processes that contenders are timed in; times are made up."""
    monkeypatch.setattr(MEASURE, staged.in_this_process)


@pytest.fixture(scope="session")
def coloured(tmp_path_factory):
    """Class folders of pictures, in the splits ``val`` and ``train``; not to be changed."""
    folder = tmp_path_factory.mktemp("coloured")
    gated.write_pictures(folder / "val", 12, seed=1)
    gated.write_pictures(folder / "train", 4, seed=2)
    return folder


@pytest.fixture(scope="session")
def colours(coloured, tmp_path_factory):
    """A classifier of colours that INT8 breaks, shipped by the command line with a gate; not to be changed."""
    folder = tmp_path_factory.mktemp("colours")
    source = f"{gated.write_net(folder)}:build"
    arguments = ("--backend", "onnxruntime", "--precision", "fp32,int8", "--evaluations", 0, "--batch", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MEASURE, staged.made_up)
        said = torchlift("ship", source, "-o", folder / "net", *arguments, "--data", coloured, "--within", "top1=2")
    assert said.code == 0, said.err
    return Shipped(folder / "net", source, said)


@pytest.fixture
def colours_copy(colours, tmp_path):
    """A copy of the classifier's bundle that a test may change."""
    return shutil.copytree(colours.path, tmp_path / "colours")
