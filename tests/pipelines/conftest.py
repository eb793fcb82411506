"""What the tests of pipelines share: opened bundles, and a progress that remembers."""

import contextlib
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from shipped import clip, net, pictures  # noqa: F401

from torchlift.backends import Session
from torchlift.backends.tensorrt.profiles import best_profile, outside
from torchlift.bundle import Bundle
from torchlift.evidence import Choice
from torchlift.manifest import Component, Manifest
from torchlift.pipelines import open_bundle
from torchlift.progress import Progress
from torchlift.prove.goldens import Golden, save_goldens
from torchlift.prove.verify import verify_variant
from torchlift.signature import CORNERS, Axis, Profile, Signature, TensorSpec
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


class Profiled(Session):
    """What another session answers, where a profile holds the sizes, as an engine of TensorRT; remembers the shapes of
    its first input.
    """

    def __init__(self, session, *profiles):
        super().__init__(session.signature, session.runtime)
        self._session = session
        self._profiles = [Profile.parse(text).of("", self.signature.axes) for text in profiles]
        self.ran = []

    def covers(self, sizes):
        return best_profile(self._profiles, sizes) is not None

    def _run(self, feeds):
        sizes = self.signature.check(feeds)
        if not self.covers(sizes):
            raise outside(self._profiles, sizes)
        self.ran.append(feeds[self.signature.input_names[0]].shape)
        return self._session.run(feeds)

    def _prepare(self, feeds):
        return lambda: None


@pytest.fixture
def profiled():
    """Maker of a session that runs only what profiles hold, of another."""
    return Profiled


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
    bundle.commit(replace(bundle.manifest, choices={variant.component: Choice(name)}))
    return bundle


@pytest.fixture
def ready(built):
    """The tiny bundle with ONNX Runtime chosen; may be changed."""
    return chosen(built, "model/onnxruntime/fp32")


@pytest.fixture
def copied(clip, tmp_path):  # noqa: F811
    """A copy of the Chinese-CLIP bundle that a test may change."""
    return Bundle.open(shutil.copytree(clip.path, tmp_path / "clip"))


def assembled(folder, nodes, signature, answers, initializers=()):
    """A bundle of a small graph, with ONNX Runtime chosen; ``answers`` computes its outputs from its inputs."""
    described = [
        [helper.make_tensor_value_info(s.name, TensorProto.FLOAT, s.shape) for s in specs]
        for specs in (signature.inputs, signature.outputs)
    ]
    graph = helper.make_graph(nodes, "small", *described, initializers)
    bundle = Bundle.create(folder, Manifest(name="small", family="module", key="small", settings={}))
    with bundle.adding("model/source") as added:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(model, added.path / "model.onnx")
        goldens = [_golden(signature, corner, answers) for corner in CORNERS]
        save_goldens(added.path / "goldens.safetensors", goldens)
    paths = {"model": f"{added.folder}/model.onnx", "goldens": f"{added.folder}/goldens.safetensors"}
    component = Component("model", signature, **paths, exporter="dynamo", opset=20, parameters=0, key="small")
    bundle.commit(bundle.manifest.with_component(component), added.files)
    build_variant(bundle, component, "onnxruntime", "fp32")
    return chosen(bundle, "model/onnxruntime/fp32")


def _golden(signature, corner, answers):
    rng = np.random.default_rng(0)
    feeds = {s.name: rng.standard_normal(s.shape_at(signature.sizes(corner)), np.float32) for s in signature.inputs}
    return Golden(corner, feeds, answers(feeds))


@pytest.fixture
def summing(tmp_path):
    """Maker of a bundle of sum = a + b + bias for a batch axis, or with ``None`` for a fixed first dimension of 2."""

    def make(axis):
        rows = axis.name if axis else 2
        shapes = {"a": (rows, 3), "b": (rows, 3), "bias": (3,)}
        signature = Signature(
            tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items()),
            (TensorSpec("sum", "float32", (rows, 3)),),
            (axis,) if axis else (),
        )
        nodes = [helper.make_node("Add", ["a", "b"], ["ab"]), helper.make_node("Add", ["ab", "bias"], ["sum"])]
        return assembled(tmp_path / "sum", nodes, signature, lambda feeds: {"sum": sum(feeds.values())})

    return make


@pytest.fixture
def columns(tmp_path):
    """Maker of a bundle whose batch is dimension 1: x [seq, batch] to twice [seq, batch] and ends [2, batch], the
    largest and the least of each column; with ``whole`` also to total [], the sum over the whole batch.
    """

    def make(axis, *, whole=False):
        signature = Signature(
            (TensorSpec("x", "float32", ("seq", "batch")),),
            (
                TensorSpec("twice", "float32", ("seq", "batch")),
                TensorSpec("ends", "float32", (2, "batch")),
                *[TensorSpec("total", "float32", ())] * whole,
            ),
            (axis, Axis("seq", 1, 5, 6)),
        )
        nodes = [
            helper.make_node("Add", ["x", "x"], ["twice"]),
            helper.make_node("ReduceMax", ["x", "rows"], ["largest"]),
            helper.make_node("ReduceMin", ["x", "rows"], ["least"]),
            helper.make_node("Concat", ["largest", "least"], ["ends"], axis=0),
            *[helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)] * whole,
        ]
        rows = [helper.make_tensor("rows", TensorProto.INT64, [1], [0])]
        return assembled(tmp_path / "columns", nodes, signature, lambda feeds: _columns(feeds["x"], whole), rows)

    return make


def _columns(x, whole):
    answers = {"twice": 2 * x, "ends": np.stack([x.max(axis=0), x.min(axis=0)])}
    return {**answers, "total": x.sum()} if whole else answers


@pytest.fixture
def shifted(tmp_path):
    """A bundle of y = a + the sum of b, each input with an axis of its own."""
    signature = Signature(
        (TensorSpec("a", "float32", ("batch", 3)), TensorSpec("b", "float32", ("length",))),
        (TensorSpec("y", "float32", ("batch", 3)),),
        (Axis("batch", 1, 2, 4), Axis("length", 1, 2, 4)),
    )
    nodes = [helper.make_node("ReduceSum", ["b"], ["s"]), helper.make_node("Add", ["a", "s"], ["y"])]
    return assembled(tmp_path / "shifted", nodes, signature, lambda feeds: {"y": feeds["a"] + feeds["b"].sum()})


@pytest.fixture
def axis():
    return lambda low, opt, high: Axis("batch", low, opt, high)
