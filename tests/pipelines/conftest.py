"""What the tests of pipelines share: opened bundles, and a progress that remembers."""

import contextlib
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from shipped import clip, net, pictures  # noqa: F401

from torchlift.bundle import Bundle
from torchlift.evidence import Choice
from torchlift.manifest import Component, Manifest
from torchlift.measure.goldens import Golden, save_goldens
from torchlift.measure.verify import verify_variant
from torchlift.pipelines import open_bundle
from torchlift.progress import Progress
from torchlift.signature import CORNERS, Axis, Signature, TensorSpec
from torchlift.stages import build_variant


class Remembering(Progress):
    """Keeps the notes and the titles of stages."""

    def __init__(self):
        self.notes, self.stages = [], []

    @contextlib.contextmanager
    def stage(self, title, total=None):
        self.stages.append(title)
        with super().stage(title, total) as stage:
            yield stage

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def progress():
    return Remembering()


@pytest.fixture(scope="module")
def opened(clip):  # noqa: F811
    """The Chinese-CLIP bundle, open."""
    with open_bundle(clip.path) as pipeline:
        yield pipeline


def chosen(bundle, name):
    """Verify a variant and make it the choice, without measuring."""
    variant = bundle.manifest.variant(name)
    bundle.commit(bundle.manifest.with_variant(replace(variant, verification=verify_variant(bundle, variant))))
    bundle.commit(replace(bundle.manifest, choices={variant.component: Choice(name, "the only one")}))
    return bundle


@pytest.fixture
def ready(built):
    """The tiny bundle with ONNX Runtime chosen; may be changed."""
    return chosen(built, "model/onnxruntime/fp32")


@pytest.fixture
def copied(clip, tmp_path):  # noqa: F811
    """A copy of the Chinese-CLIP bundle that a test may change."""
    return Bundle.open(shutil.copytree(clip.path, tmp_path / "clip"))


def _sum_model(batch):
    """sum = a + b + bias and twice = 2 bias: two inputs with a batch axis, one without."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "b"], ["ab"]),
            helper.make_node("Add", ["ab", "bias"], ["sum"]),
            helper.make_node("Add", ["bias", "bias"], ["twice"]),
        ],
        "sum",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in (("a", [batch, 3]), ("b", [batch, 3]), ("bias", [3]))
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("sum", [batch, 3]), ("twice", [3]))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def summing(tmp_path):
    """Maker of a bundle of the sum model for a batch axis, or with ``None`` for a fixed first dimension of 2."""

    def make(axis):
        batch = axis.name if axis else 2
        signature = Signature(
            (
                TensorSpec("a", "float32", (batch, 3)),
                TensorSpec("b", "float32", (batch, 3)),
                TensorSpec("bias", "float32", (3,)),
            ),
            (TensorSpec("sum", "float32", (batch, 3)), TensorSpec("twice", "float32", (3,))),
            (axis,) if axis else (),
        )
        bundle = Bundle.create(tmp_path / "sum", Manifest(name="sum", family="module", key="sum", settings={}))
        with bundle.adding("model/source") as added:
            onnx.save(_sum_model(batch), added.path / "model.onnx")
            save_goldens(added.path / "goldens.safetensors", [_sum_golden(signature, corner) for corner in CORNERS])
        paths = {role: f"{added.folder}/{file}" for role, file in _FILES.items()}
        component = Component("model", signature, **paths, exporter="dynamo", opset=20, parameters=0, key="sum")
        bundle.commit(bundle.manifest.with_component(component), added.files)
        build_variant(bundle, component, "onnxruntime", "fp32")
        return chosen(bundle, "model/onnxruntime/fp32")

    return make


_FILES = {"model": "model.onnx", "goldens": "goldens.safetensors"}


def _sum_golden(signature, corner):
    rng = np.random.default_rng(0)
    feeds = {s.name: rng.standard_normal(s.shape_at(signature.sizes(corner)), np.float32) for s in signature.inputs}
    answers = {"sum": feeds["a"] + feeds["b"] + feeds["bias"], "twice": 2 * feeds["bias"]}
    return Golden(corner, feeds, answers)


@pytest.fixture
def axis():
    return lambda low, opt, high: Axis("batch", low, opt, high)
