"""Bundles without graphs, and sessions in numpy that know colours: what tasks are tested with."""

import base64
import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.declare.answers import Embedding, Labels
from torchlift.declare.inputs import ImageInput, TextInput
from torchlift.families.chinese_clip.pixels import MEAN, STD
from torchlift.manifest import Component, Manifest
from torchlift.pipelines.run import Batching, Loader, run_prepared
from torchlift.progress import Progress
from torchlift.signature import Axis, Signature, TensorSpec

COLOURS = {
    "红": (250, 10, 10),
    "绿": (10, 250, 10),
    "蓝": (10, 10, 250),
    "黄": (250, 250, 10),
    "紫": (250, 10, 250),
    "青": (10, 250, 250),
    "黑": (10, 10, 10),
    "白": (250, 250, 250),
}
SIDE = 8
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLOURS, *'色图片的一张abc“"', "##x"]
BATCH = Axis("batch", 1, 4, 8)
IMAGES = Signature(
    (TensorSpec("image", "float32", ("batch", 3, SIDE, SIDE)),),
    (TensorSpec("features", "float32", ("batch", 3)),),
    (BATCH,),
)
TEXTS = Signature(
    (TensorSpec("text", "int64", ("batch", "sequence")),),
    (TensorSpec("features", "float32", ("batch", 3)),),
    (BATCH, Axis("sequence", 3, 6, 12)),
)


class Remembering(Progress):
    """Keeps the notes, and how far each stage went."""

    def __init__(self):
        self.notes, self.stages = [], []

    @contextlib.contextmanager
    def stage(self, title, total=None):
        self.stages.append((title, total))
        with super().stage(title, total) as stage:
            yield stage

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def progress():
    return Remembering()


class Numpy(Session):
    """A session that is a function of its only input; keeps what it was fed."""

    def __init__(self, signature, function):
        super().__init__(signature, "numpy")
        self.function = function
        self.fed = []

    def _run(self, feeds):
        self.fed.append(dict(feeds))
        (array,) = feeds.values()
        return {self.signature.output_names[0]: np.asarray(self.function(array), np.float32)}

    def _prepare(self, feeds):
        return lambda: None


def direction(colour):
    """Colours around the middle grey; black is not the same as white."""
    return np.asarray(colour, np.float32) / 128 - 1.0


def see(pixels):
    """The mean colour of normalised pictures."""
    mean, std = (np.array(x, np.float32) for x in (MEAN, STD))
    return direction((pixels.mean((2, 3)) * std + mean) * 255)


def read(ids):
    """The colours of the words of texts, added up."""
    table = np.zeros((len(VOCABULARY), 3), np.float32)
    for word, colour in COLOURS.items():
        table[VOCABULARY.index(word)] = direction(colour)
    return table[ids].sum(1)


def sessions(image=see, text=read):
    return {"image": Numpy(IMAGES, image), "text": Numpy(TEXTS, text)}


def bundle_of(folder, pipeline, settings, signatures, declared, assets=None):
    bundle = Bundle.create(folder, Manifest("colours", "module", "k", settings, pipeline))
    for name, signature in signatures.items():
        with bundle.adding(f"{name}/source") as added:
            for file in ("model.onnx", "goldens.safetensors"):
                (added.path / file).write_bytes(b"not opened")
            for role, data in (assets or {}).items():
                (added.path / role).write_bytes(data)
        files = {"model": f"{added.folder}/model.onnx", "goldens": f"{added.folder}/goldens.safetensors"}
        inputs, answers = declared[name]
        facts = {"exporter": "dynamo", "opset": 20, "parameters": 0, "key": name}
        component = Component(name, signature, **files, **facts, inputs=inputs, answers=answers)
        manifest = bundle.manifest.with_component(component)
        for role in assets or {}:
            manifest.assets[role] = f"{added.folder}/{role}"
        bundle.commit(manifest, added.files)
        assets = None
    return bundle


@pytest.fixture
def clip(tmp_path):
    """A Chinese-CLIP without graphs."""
    vocabulary = "\n".join(VOCABULARY).encode()
    signatures = {"image": IMAGES, "text": TEXTS}
    inputs = {"image": {"image": ImageInput((SIDE, SIDE), MEAN, STD)}, "text": {"text": TextInput("vocabulary", 12)}}
    declared = {n: (inputs[n], {s.output_names[0]: Embedding()}) for n, s in signatures.items()}
    settings = {"logit_scale": 2.0}
    return bundle_of(tmp_path / "clip", "dual-encoder", settings, signatures, declared, {"vocabulary": vocabulary})


@pytest.fixture
def classifier(tmp_path):
    """Maker of a classifier of colours without a graph, and its session; ``labels`` are declared where given."""

    def make(classes, labels=(), preprocess=True):
        signature = Signature(IMAGES.inputs, (TensorSpec("logits", "float32", ("batch", len(classes))),), (BATCH,))
        declared = (
            {"image": ImageInput((SIDE, SIDE), MEAN, STD)} if preprocess else {},
            {"logits": Labels(tuple(labels))} if labels else {},
        )
        known = np.stack([direction(COLOURS[name]) for name in classes])
        session = Numpy(signature, lambda pixels: see(pixels) @ known.T)
        return bundle_of(tmp_path / "classifier", "tensors", {}, {"model": signature}, {"model": declared}), session

    return make


def picture(colour, seed=0):
    """The bytes of a picture of one colour, with noise."""
    noise = np.random.default_rng(seed).integers(-8, 9, (10, 12, 3))
    stream = io.BytesIO()
    Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_muge(folder, images, texts, split="valid"):
    """``images`` id -> bytes or what stands there in place of base64; ``texts`` id -> (text, image ids)."""
    folder.mkdir(exist_ok=True)
    coded = {i: base64.b64encode(data).decode() if isinstance(data, bytes) else data for i, data in images.items()}
    (folder / f"{split}_imgs.tsv").write_text("".join(f"{i}\t{data}\n" for i, data in coded.items()))
    records = [{"text_id": i, "text": words, "image_ids": found} for i, (words, found) in texts.items()]
    (folder / f"{split}_texts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture
def muge(tmp_path):
    """Two pictures of each colour, and for each colour a text that names both."""
    images = {100 + i: picture(colour, i) for i, colour in enumerate([*COLOURS] * 2)}
    texts = {900 + i: (f"{colour}色", [100 + i, 108 + i]) for i, colour in enumerate(COLOURS)}
    return write_muge(tmp_path / "muge", images, texts)


def write_folders(root, classes, count=2):
    """Class folders of pictures: folder -> colour."""
    for kind, colour in classes.items():
        (root / kind).mkdir(parents=True)
        for i in range(count):
            (root / kind / f"{i}.png").write_bytes(picture(colour, i))
    return root


def ask(task, bundle, given):
    """The answers of sessions to all components of a task."""
    with Loader() as loader:
        outputs = {
            component: run_prepared(session, samples, Batching(session, session.signature), loader)
            for component, samples in task.samples.items()
            for session in [given[component]]
        }
    return {component: task.answers(component, found) for component, found in outputs.items()}


def scores(task, bundle, given):
    """Metric -> percent."""
    outcomes = task.outcomes(ask(task, bundle, given))
    return {metric: round(100 * float(values.mean()), 2) for metric, values in outcomes.items()}
