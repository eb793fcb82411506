"""A user's network that would end the process: an error that says where, since a command would seem to have worked."""

import sys

import pytest

from torchlift.errors import ExportError, ModuleSourceError
from torchlift.exporter import ExportOptions
from torchlift.families.base import LoadOptions
from torchlift.families.module import ModuleFamily
from torchlift.jobs.ship import export
from torchlift.jobs.source import Source

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

NET = """
import torch
import torchlift as tl
from torch import nn

class Own(BaseException):
    pass

def stop():
    raise {raised}

class Net(nn.Module):
    def forward(self, x):
        if {when}:
            stop()
        return 2 * x

def sample(sizes, rng):
    if {sampled}:
        stop()
    return {{"x": rng.standard_normal((sizes["batch"], 4)).astype("float32")}}

if {imported}:
    stop()

@tl.module(
    inputs=[tl.TensorSpec("x", "float32", ("batch", 4))], outputs=["y"], axes=[tl.Axis("batch", 1, 4, 8)], sample=sample
)
def build():
    if {built}:
        stop()
    return Net()
"""

QUANTISED = """
def quantised():
    network = Net()
    network.fake = torch.ao.quantization.default_fake_quant()
    return network
"""

PLACES = {
    "imported": (ModuleSourceError, "net.py cannot be imported"),
    "built": (ModuleSourceError, "build in net.py failed"),
    "sampled": (ModuleSourceError, "sample= failed at {'batch': 4}"),
    "when": (ModuleSourceError, "the network does not run on x [4, 4]"),
}
RAISED = {
    "SystemExit(0)": "SystemExit: 0",
    "SystemExit": "SystemExit",
    "GeneratorExit('over')": "GeneratorExit: over",
    "Own('mine')": "Own: mine",
}


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    """The folders of users' files are added to the path: forget them."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def source(tmp_path):
    """Write the network that raises something somewhere; returns how it is named."""

    def source(raised, **places):
        values = {"imported": "False", "built": "False", "sampled": "False", "when": "False", **places}
        (tmp_path / "net.py").write_text(NET.format(raised=raised, **values))
        return f"{tmp_path / 'net.py'}:build"

    return source


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("place", PLACES)
def test_what_would_end_the_process_is_an_error_that_names_the_place(source, place, raised):
    kind, message = PLACES[place]
    with pytest.raises(kind) as caught:
        ModuleFamily().load(source(raised, **{place: "True"}), LoadOptions())
    assert message in caught.value.message
    assert RAISED[raised] in caught.value.message
    assert caught.value.remedy


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_fake_quantised_network_that_would_end_the_process_is_an_error(source, tmp_path):
    named = source("SystemExit(0)", when="True")
    file = tmp_path / "net.py"
    file.write_text(file.read_text().replace("return Net()", "return quantised()") + QUANTISED)
    with pytest.raises(ModuleSourceError, match="the fake-quantised network does not run: SystemExit: 0"):
        ModuleFamily().load(named, LoadOptions())


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_stays_what_it_is(source, place):
    with pytest.raises(KeyboardInterrupt):
        ModuleFamily().load(source("KeyboardInterrupt", **{place: "True"}), LoadOptions())


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("x.shape[0] == 8", "the network does not run at batch 8: SystemExit: 0"),
        ("torch.compiler.is_exporting() or torch.jit.is_tracing()", "PyTorch could not export the network: SystemExit"),
    ],
)
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_network_that_ends_the_process_while_it_is_exported_is_an_error(source, tmp_path, when, message, exporter):
    named = Source("module", source("SystemExit(0)", when=when))
    with pytest.raises(ExportError) as caught:
        export(named, tmp_path / "out", ExportOptions(exporter))
    assert message in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("when", ["x.shape[0] == 8", "torch.compiler.is_exporting()"])
def test_ctrl_c_while_it_is_exported_stays_what_it_is(source, tmp_path, when):
    with pytest.raises(KeyboardInterrupt):
        export(Source("module", source("KeyboardInterrupt", when=when)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
