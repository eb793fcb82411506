"""An export answers inputs beyond the goldens by PyTorch, and what a runtime makes of them is noted."""

import numpy as np
import pytest

from torchlift.bundle import Bundle
from torchlift.jobs.ship import export
from torchlift.jobs.source import Source
from torchlift.prove.stress import load_stress, stress_file
from torchlift.stages import build_variant, verify_all

NET = """
import torch
from torch import nn
import torchlift as tl


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x, mask):
        values = nn.functional.logsigmoid(self.linear(x))
        weights = mask.to(values.dtype).unsqueeze(-1)
        return values, (values * weights).sum(1) / weights.sum(1)


@tl.module(
    inputs=[
        tl.TensorSpec("x", "float32", ("batch", "tokens", 6)),
        tl.TensorSpec("mask", "int64", ("batch", "tokens"), bounds=(1, 2)),
    ],
    outputs=["values", "mean"],
    axes=[tl.Axis("batch", 1, 3, 4), tl.Axis("tokens", 2, 4, 8)],
)
def build():
    torch.manual_seed(0)
    return Net()
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stress")
    (folder / "net.py").write_text(NET)
    return Bundle.open(export(Source("module", f"{folder / 'net.py'}:build"), folder / "net").path)


def test_pytorchs_answers_are_kept_whatever_they_are(exported):
    component = exported.manifest.component("model")
    assert stress_file(exported, component) == "model/source/stress.safetensors"
    found = {sample.name: sample.outputs for sample in load_stress(exported, component)}
    assert [*found] == ["large", "nan", "infinite", "zero"]  # a mask that is bound to 1 has no empty row
    assert np.isfinite(found["large"]["values"]).all()
    assert np.isnan(found["nan"]["mean"]).any()


def test_the_operator_that_overflows_is_named_and_the_variant_serves(exported):
    build_variant(exported, exported.manifest.component("model"), "onnxruntime", "fp32")
    verify_all(exported, exported.manifest.variants)
    proof = exported.manifest.variant("model/onnxruntime/fp32").verification
    assert proof.passed, proof.failures
    noted = {(note.kind, note.output): note.operator for note in proof.stress if note.inf > note.inf_expected}
    assert noted == {("large", "values"): "Log", ("large", "mean"): "Log"}
