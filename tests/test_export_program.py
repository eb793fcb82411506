"""A component as a torch.export program: PyTorch's answers, nothing of this machine, and what is said without one."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from torchlift import storage
from torchlift.backends.pytorch.program import load_program
from torchlift.backends.pytorch.session import TorchSession
from torchlift.bundle import Bundle
from torchlift.errors import StorageError
from torchlift.exporter import ExportOptions, export_component, export_program
from torchlift.exporter import program as module
from torchlift.families.base import LoadOptions, Model
from torchlift.families.module import ModuleFamily
from torchlift.manifest import Manifest
from torchlift.progress import Progress

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

NETS = Path(__file__).parent / "ship_helpers" / "nets.py"

NET = """
import torch
from torch import nn
import torchlift as tl

ROWS = {"inputs": [tl.TensorSpec("x", "float32", ("batch", 4))], "outputs": ["y"], "axes": [tl.Axis("batch", 1, 2, 4)]}

class Branching(nn.Linear):
    def forward(self, x):
        if x.sum() > -1e9:
            return nn.functional.linear(x, self.weight, self.bias) * 2
        return x

@tl.module(**ROWS)
def branching():
    return Branching(4, 4)

class Conditional(nn.Linear):
    def forward(self, x):
        if not torch.compiler.is_exporting():
            return super().forward(x)
        return torch.cond(x.sum() > -1e9, lambda x: x + 0, lambda x: x - 1, [super().forward(x)])

@tl.module(**ROWS)
def conditional():
    return Conditional(4, 4)
"""


@dataclass
class Exported:
    model: Model
    bundle: Bundle


@pytest.fixture
def with_program(tmp_path):
    """Exports a network of ``nets.py``, or of a file, by TorchScript, and then as a program; with what was noted."""

    def make(name, file=NETS):
        model = ModuleFamily().load(f"{file}:{name}", LoadOptions())
        bundle = Bundle.create(tmp_path / "bundle", Manifest(model.name, model.family, model.key, {}))
        export_component(model, "model", bundle, ExportOptions("torchscript"))
        notes = Remembering()
        return Exported(model, bundle), export_program(model, "model", bundle, notes), notes

    return make


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "program_nets.py").write_text(NET)
    return tmp_path / "program_nets.py"


class Remembering(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize("sizes", [{"batch": 1, "events": 1}, {"batch": 6, "events": 9}, {"batch": 2, "events": 2}])
def test_a_program_answers_as_pytorch_at_every_corner(with_program, sizes):
    found, graph, _ = with_program("events")
    assert (graph.name, graph.model, graph.files) == (
        "model/program",
        "model/program/model.pt2",
        ("model/program/model.pt2",),
    )
    assert Bundle.open(found.bundle.path).manifest.graphs == (graph,)
    part = found.model.component("model")
    feeds = part.sample(sizes, np.random.default_rng(7))
    right = TorchSession(part.reference, part.signature).run(feeds)
    program = load_program(found.bundle.file(graph.model))
    for name, answer in TorchSession(program, part.signature).run(feeds).items():
        np.testing.assert_allclose(answer, right[name], rtol=0, atol=1e-6)


def test_a_program_keeps_attention_in_one_operator_and_nothing_of_the_machine(with_program):
    found, graph, _ = with_program("events")
    program = load_program(found.bundle.file(graph.model))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"aten.scaled_dot_product_attention.default", "aten.linear.default", "aten.layer_norm.default"} <= operators
    data = found.bundle.file(graph.model).read_bytes()
    assert not [t for t in (str(NETS.parent), "nets.py", sys.prefix, "site-packages") if t.encode() in data]


def test_a_family_is_asked_for_the_attention_that_torch_runs_as_one_kernel(with_program, monkeypatch):
    found, _, _ = with_program("events")
    asked = []
    component = found.model.component
    monkeypatch.setattr(
        found.model, "component", lambda name, attention="sdpa": (asked.append(attention), component(name))[1]
    )
    found.bundle.commit(replace(found.bundle.manifest, graphs=()))
    export_program(found.model, "model", found.bundle)
    assert asked == ["node"]


def test_a_program_that_is_there_is_kept(with_program):
    found, graph, notes = with_program("tiny")
    file = found.bundle.file(graph.model)
    stamp = (file.stat().st_ino, file.stat().st_mtime_ns)
    assert notes.notes == []
    assert export_program(found.model, "model", found.bundle, notes) == graph
    assert notes.notes == ["model/program was exported before: kept"]
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == stamp
    export_component(found.model, "model", found.bundle, ExportOptions("torchscript", seed=1))
    assert found.bundle.manifest.graphs == (), "it was proven at other goldens"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("branching", "the network takes a value that may vary as a Python number"),
        ("conditional", "model.pt2 is not opened: it has the "),
    ],
)
def test_a_network_that_makes_no_program_keeps_its_graph_and_says_why(with_program, nets, name, said):
    found, graph, notes = with_program(name, nets)
    assert graph.failure.startswith(said)
    assert (graph.model, graph.files) == ("", ())
    assert notes.notes == [f"model/program is not there: {graph.failure}"]
    assert Bundle.open(found.bundle.path).manifest.graphs == (graph,)
    assert {p.name for p in (found.bundle.path / "model").iterdir()} == {"source"}


def test_a_program_that_answers_otherwise_is_not_kept(with_program, monkeypatch):
    trace = module.captured

    def wrong(part, arguments, strategy):
        program = trace(part, arguments, strategy)
        next(iter(program.state_dict.values())).add_(1)
        return program

    monkeypatch.setattr(module, "captured", wrong)
    found, graph, _ = with_program("tiny")
    assert graph.failure.startswith("the exported graph does not answer as PyTorch does: y at min: off by")
    assert export_program(found.model, "model", found.bundle).failure, "it is tried again"


def test_a_program_on_a_full_disk_is_refused(with_program, monkeypatch):
    found, _, _ = with_program("tiny")
    found.bundle.commit(replace(found.bundle.manifest, graphs=()))
    monkeypatch.setattr(storage, "free_space", lambda folder: 100)
    with pytest.raises(StorageError, match="are needed"):
        export_program(found.model, "model", found.bundle)
    assert found.bundle.manifest.graphs == ()
