"""A network that lives in this process is shipped as it is, and stays as it is."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import torchlift as tl
from torchlift.declare.module import ModuleDeclaration
from torchlift.errors import InputError, ModuleSourceError
from torchlift.families.module import live_model
from torchlift.jobs.peers import elsewhere, open_peer, peers
from torchlift.jobs.source import LiveSource
from torchlift.machine import HERE
from torchlift.prove.goldens import load_goldens

QUICK = {"rounds": 2, "backends": ["onnxruntime"]}


class Mean(nn.Module):
    """The mean of embeddings under a mask, as transformers' models return it."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(50, 16)
        self.out = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 4))

    def forward(self, ids, mask=None):
        x = self.items(ids)
        if mask is not None:
            x = x * mask[..., None]
        return {"logits": self.out(x.mean(1)), "hidden": (x, None)}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Mean()


def example(rows=3):
    return torch.randint(0, 50, (rows, 6)), torch.ones(rows, 6)


def test_a_network_is_shipped_by_example_inputs_and_stays_as_it_is(net, tmp_path):
    before = copy.deepcopy(net.state_dict())
    bundle = tl.ship(net, tmp_path / "net", example=example(), **QUICK)
    component = bundle.manifest.component("model")
    assert component.signature.input_names == ("ids", "mask")
    assert component.signature.output_names == ("logits", "hidden.0")
    assert component.call.returns == {"logits": "logits", "hidden": ["hidden.0", None]}
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    measured = {latency.contender.name for latency in bundle.manifest.benchmarks["model"].latencies}
    assert measured == {"pytorch", "model/onnxruntime/fp32"}
    ids, mask = example(5)
    with tl.open(tmp_path / "net") as opened, torch.inference_mode():
        found = opened({"ids": ids.numpy(), "mask": mask.numpy()})
        expected = net.eval()(ids, mask)
    np.testing.assert_allclose(found["logits"], expected["logits"].numpy(), rtol=1e-4, atol=1e-5)


def test_axes_and_inputs_may_be_declared(net, tmp_path):
    bundle = tl.export(
        net,
        tmp_path / "net",
        inputs=[tl.TensorSpec("ids", "int64", ("batch", "length"))],
        axes=[tl.Axis("batch", 1, 2, 4), tl.Axis("length", 4, 8, 16, step=4)],
        outputs=["logits"],
    )
    signature = bundle.manifest.component("model").signature
    assert signature.inputs == (tl.TensorSpec("ids", "int64", ("batch", "length"), bounds=(0, 50)),)
    assert signature.axis("length").step == 4
    assert signature.output_names == ("logits",)


class Pool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 32, stride=32)
        self.out = nn.Linear(8, 4)

    def forward(self, pixels):
        return self.out(self.patches(pixels).flatten(2).mean(2))


def test_data_in_memory_make_a_gate_for_any_network(tmp_path):
    torch.manual_seed(0)
    pixels = torch.randn(24, 3, 64, 96)
    net = Pool()
    loader = torch.utils.data.DataLoader([*zip(pixels, net(pixels).argmax(1), strict=True)], batch_size=8)
    bundle = tl.ship(
        net,
        tmp_path / "net",
        inputs=[tl.TensorSpec("pixels", "float32", ("batch", 3, "height", "width"))],
        axes=[
            tl.Axis("batch", 1, 2, 8),
            tl.Axis("height", 32, 64, 128, step=32),
            tl.Axis("width", 32, 96, 128, step=32),
        ],
        data=loader,
        within={"top1": 0.3},
        precisions=["fp32"],
        **QUICK,
    )
    manifest = bundle.manifest
    assert manifest.choices["model"].held
    assert manifest.scoring.scores["model/onnxruntime/fp32"].drops["top1"].value == 0
    for golden in load_goldens(bundle, manifest.component("model")).values():
        assert all(size % 32 == 0 for size in golden.inputs["pixels"].shape[2:])


def test_axes_of_examples_may_be_ranged(net, tmp_path):
    bundle = tl.export(net, tmp_path / "net", example=example(), axes={"batch": (1, 2, 4)})
    assert bundle.manifest.component("model").signature.axes == (tl.Axis("batch", 1, 2, 4),)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error"),
    [
        ((object(), "net"), {}, InputError),
        (("module", "net.py:build"), {}, InputError),
        (("module", "net.py:build", "out"), {"example": torch.ones(1)}, InputError),
        ((nn.Linear(2, 2), "net", "out"), {"example": torch.ones(1, 2)}, InputError),
        ((nn.Linear(2, 2), "net"), {}, ModuleSourceError),
        (
            (nn.Linear(2, 2), "net"),
            {"example": torch.ones(1, 2), "axes": [tl.Axis("rows", 1, 2, 3)]},
            ModuleSourceError,
        ),
    ],
)
def test_what_cannot_be_shipped_is_said_before_anything_is_written(tmp_path, monkeypatch, arguments, keywords, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        tl.ship(*arguments, **keywords)
    assert caught.value.remedy
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def exported(net, tmp_path):
    source = LiveSource(live_model(net, ModuleDeclaration(example=example())))
    return source, tl.export(net, tmp_path / "net", example=example())


class Notes(tl.Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_another_process_gets_the_program(exported, tmp_path):
    import pickle

    source, bundle = exported
    spooled = elsewhere(source, bundle, tmp_path, Notes())
    (contender,) = [c for c in peers(spooled, "model") if c.entrant.precision == "fp32"]
    assert contender.apart
    opened = pickle.loads(pickle.dumps(contender.open))()
    ids, mask = example()
    with opened, torch.inference_mode():
        found = opened.run({"ids": ids.numpy(), "mask": mask.numpy()})
        expected = source.load().component("model").reference(ids, mask)
    np.testing.assert_allclose(found["logits"], expected[0].numpy(), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_traced_is_measured_here_and_that_is_said(exported, tmp_path, monkeypatch):
    from torchlift.exporter import program

    def fails(part, arguments, strategy):
        raise RuntimeError("never")

    monkeypatch.setattr(program, "captured", fails)
    source, bundle = exported
    notes = Notes()
    spooled = elsewhere(source, bundle, tmp_path, notes)
    contender = peers(spooled, "model")[0]
    assert not contender.apart
    assert len(notes.notes) == 1
    assert "in this process" in notes.notes[0]
    with open_peer(spooled, "model", contender.entrant, HERE) as session:
        assert session.run({"ids": np.zeros((1, 6), np.int64), "mask": np.ones((1, 6), np.float32)})


def test_a_contender_in_this_process_is_measured_like_the_others(exported, tmp_path):
    from torchlift.backends.opening import open_source
    from torchlift.evidence import Entrant
    from torchlift.timing.latency import Contender, LatencyOptions, Workload, measure_latency

    _, bundle = exported
    component = bundle.manifest.component("model")
    feeds = {"ids": np.zeros((1, 6), np.int64), "mask": np.ones((1, 6), np.float32)}

    def broken():
        raise RuntimeError("does not open")

    here = Contender(Entrant("here", "fp32"), lambda: open_source(bundle, component, HERE), apart=False)
    lost = Contender(Entrant("lost", "fp32"), broken, apart=False)
    found = measure_latency(
        [here, lost], [Workload({"batch": 1}, feeds)], options=LatencyOptions(rounds=2, turn_seconds=0.01)
    )
    assert [latency.contender.name for latency in found.latencies] == ["here"]
    assert [failure.contender.name for failure in found.failures] == ["lost"]
