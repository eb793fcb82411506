"""Networks that learnt something real, shipped in FP16 and INT8: digits, coloured shapes, and fake-quantised ones."""

import functools
import importlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import gated
import numpy as np
import onnx_ir as ir
import pytest
import staged
import torch
from PIL import Image

import torchlift
from torchlift.backends import backend
from torchlift.bundle import Bundle
from torchlift.convert.calibration import CalibrationOptions
from torchlift.convert.forms import GRAPH, FormOptions, converter_of, maker_of
from torchlift.datasets import ReadOptions, open_data
from torchlift.evidence import Gate
from torchlift.families.base import LoadOptions
from torchlift.families.mobilevit import MobileViTFamily
from torchlift.graph.types import infer_types
from torchlift.graph.units import module_of
from torchlift.jobs import DataOptions, JobOptions, build_bundle
from torchlift.jobs.ship import ShipOptions, export, ship
from torchlift.jobs.source import Source
from torchlift.machine import RunOn
from torchlift.processing.image import prepared
from torchlift.progress import SILENT
from torchlift.prove.half import HalfOracle
from torchlift.prove.numerics import distance
from torchlift.signature import Axis
from torchlift.stages import BenchOptions, BuildOptions, ConvertOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = LoadOptions(axes={"": {"batch": Axis("batch", 1, 8, 16)}})
FLOAT, HALF, INT8 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8


def load(*path):
    """An example's file as a module, by the name that other examples import it by. As for a script, what lies beside it
    can be imported.
    """
    file = EXAMPLES.joinpath(*path)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.parent))
    return module


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def made_up_times():
    """Saves a process for each contender: the later a variant was built, the faster it is."""

    def measure(contenders, workloads, *, baseline, files, **_):
        times = [
            staged.latency(contender.entrant, 8 / (1 + place), workload.sizes.get("batch", 1))
            for workload in workloads
            for place, contender in enumerate(contenders)
        ]
        return replace(staged.benchmark(*times), baseline=baseline, files=files)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchlift.stages.bench.measure_latency", measure)
        yield


def job(data, metric, drop, precisions, split="val", calibration="train", kind=JobOptions, **read):
    """A job that scores on one split, and calibrates on 48 samples of another where one is given."""
    samples = CalibrationOptions(source=data, read=ReadOptions(split=calibration, limit=48)) if calibration else None
    return kind(
        build=BuildOptions(("onnxruntime",), precisions),
        data=DataOptions(data, ReadOptions(split=split, **read)),
        convert=ConvertOptions(samples or CalibrationOptions(), evaluations=0),
        gate=Gate({metric: drop}),
        bench=BenchOptions((1,)),
    )


def graph_of(bundle, component, form):
    """The converted graph, with its weights."""
    return ir.load(bundle.file(bundle.manifest.graph(component, form).model))


def weights(model, least=64):
    """Element type -> how many numbers the graph's constants of at least ``least`` elements hold."""
    found = {}
    for value in model.graph.initializers.values():
        if value.const_value.size >= least:
            found[value.dtype] = found.get(value.dtype, 0) + value.const_value.size
    return found


def quantised(model):
    """PyTorch module -> (scale, zero point, scale of the weight) of the product in it that is quantised."""
    found = {}
    for node in model.graph:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            pairs = [value and value.producer() for value in node.inputs[:2]]
            if all(pair is not None and pair.op_type == "DequantizeLinear" for pair in pairs):
                scale, zero = (value.const_value.numpy() for value in pairs[0].inputs[1:3])
                found[module_of(node)] = scale, zero, pairs[1].inputs[1].const_value.numpy()
    return found


# Digits ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A MobileViT trained for a short time, with the pictures beside it; not to be changed."""
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    train = load("digits", "train.py")
    folder = tmp_path_factory.mktemp("digits")
    seen, held_out = train.load()
    train.write_folders(seen, folder / "train")
    train.write_folders(held_out, folder / "val")
    trained = train.train(
        lambda: train.MobileViT(train.ARCHITECTURE),
        train.Plan(steps=60, batch=40, warm_up=10),
        seen,
        held_out,
        every_s=1e9,
    )
    train.save(trained, train.accuracy(trained.model, held_out), folder)
    for name in ("train", "digits"):
        del sys.modules[name]
    return folder


@pytest.fixture(scope="module")
def shipped_digits(digits, tmp_path_factory):
    options = job(digits, "top1", 2.0, ("fp32", "fp16", "int8"), kind=ShipOptions, limit=300)
    return ship(
        Source("mobilevit", str(digits / "digits.pth.tar"), SMALL), tmp_path_factory.mktemp("net") / "net", options
    )


class TestDigits:
    def test_every_precision_is_scored_and_the_choice_holds_the_gate(self, shipped_digits):
        scoring = shipped_digits.manifest.scoring
        assert (scoring.task, scoring.reference) == ("classification", "pytorch")
        assert scoring.data.samples["images"] == 300
        assert scoring.metrics["top1"].value > 90
        names = {f"model/onnxruntime/{recipe}" for recipe in ("fp32", "fp16", "int8", "int8-dynamic")}
        assert scoring.scores.keys() == names
        for name, score in scoring.scores.items():
            lost = scoring.metrics["top1"].value - score.metrics["top1"].value
            assert score.drops["top1"].value == pytest.approx(lost), name
            assert score.drops["top1"].low <= lost <= score.drops["top1"].high
        assert scoring.scores["model/onnxruntime/fp32"].drops["top1"].value == 0
        assert abs(scoring.scores["model/onnxruntime/fp16"].drops["top1"].value) < 1
        choice = shipped_digits.manifest.choices["model"]
        assert choice.held
        assert scoring.together.drops["top1"].value <= 2
        refused = {name for name, verdict in choice.others.items() if verdict.refuses}
        assert refused == {name for name, score in scoring.scores.items() if score.drops["top1"].value > 2}

    def test_fp16_is_fp16(self, shipped_digits):
        found = weights(graph_of(shipped_digits, "model", "fp16"))
        assert found.keys() & {FLOAT, HALF} == {HALF}
        assert found[HALF] > 300_000
        conversion = shipped_digits.manifest.graph("model", "fp16").conversion
        assert conversion.share == 1

    def test_int8_is_int8(self, shipped_digits):
        manifest = shipped_digits.manifest
        found = weights(graph_of(shipped_digits, "model", "int8-u8s8"))
        assert found[INT8] > 0.95 * (found[INT8] + found.get(FLOAT, 0))
        conversion = manifest.graph("model", "int8-u8s8").conversion
        assert [kept.module for kept in conversion.kept] == ["stem.0"]
        assert conversion.calibration.samples == 48
        sizes = {v.recipe: manifest.size(v) for v in manifest.variants}
        assert sizes["int8"] < 0.6 * sizes["fp32"]

    def test_what_was_chosen_reads_digits(self, shipped_digits, digits):
        pictures = [sorted((digits / "val" / str(digit)).glob("*.png"))[0] for digit in range(10)]
        with torchlift.open(shipped_digits.path) as pipeline:
            answers = pipeline({"input": pictures})["class"]
        assert sum(rows[0][0] == str(digit) for digit, rows in enumerate(answers)) >= 9


class TestMixed:
    """INT8 whose remainder is FP16."""

    @pytest.fixture(scope="class")
    def rows(self, digits, shipped_digits):
        """float32 [30, 3, 64, 64] of digits."""
        with torchlift.open(shipped_digits.path) as pipeline:
            declared = pipeline.bundle.manifest.component("model").inputs["input"]
        return np.stack([prepared(declared, picture) for picture in sorted((digits / "train").glob("*/*.png"))[::40]])

    @pytest.fixture
    def make(self, tmp_path):
        """Make the mixed graph of a bundle's component ``model``; returns the file, what was converted, the answers in
        true half precision and those of the FP32 graph.
        """

        def make(bundle, feed):
            source = bundle.file(bundle.manifest.component("model").model)
            options = FormOptions(on=RunOn(1))
            converted = maker_of("int8-s8s8-fp16").make(source, tmp_path, lambda: [feed], options, SILENT)
            (answers,) = HalfOracle(tmp_path / GRAPH).run(feed).values()
            (expected,) = HalfOracle(source).run(feed).values()
            return tmp_path / GRAPH, converted, answers, expected

        return make

    def test_integers_and_halves_stand_side_by_side_and_answer_alike(self, make, shipped_digits, rows):
        file, converted, answers, expected = make(shipped_digits, {"input": rows})
        model = ir.load(file)
        assert converted.kept == ()
        assert weights(model).keys() & {FLOAT, HALF, INT8} == {HALF, INT8}
        assert len(quantised(model)) == 59
        infer_types(model)
        halves = {node.op_type for node in model.graph if node.outputs[0].dtype == HALF}
        assert halves >= {"LayerNormalization", "Softmax", "Sigmoid", "DequantizeLinear", "Conv"}
        assert answers.dtype == np.float32
        assert distance(answers, expected) < 0.01

    def test_it_is_made_again_in_part(self, make, shipped_digits, rows, tmp_path_factory):
        file, _, _, _ = make(shipped_digits, {"input": rows})
        source = shipped_digits.file(shipped_digits.manifest.component("model").model)
        converter = converter_of("int8-s8s8-fp16", source, file.parent)
        assert len(converter.candidates) == 59
        (head,) = [unit for unit in converter.candidates if unit.module == "fc"]
        folder = tmp_path_factory.mktemp("part")
        converted = converter.write(folder, {head.node: "left out"})
        assert [(kept.module, kept.reason) for kept in converted.kept] == [("fc", "left out")]
        model = ir.load(folder / GRAPH)
        assert quantised(ir.load(file)).keys() - quantised(model).keys() == {"fc"}
        assert model.graph.initializers["fc.weight"].dtype == FLOAT

    def test_what_fp16_cannot_hold_stays_fp32(self, make, overflowing):
        colours = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 3, 1, 1)).astype(np.float32)
        image = np.tile(colours, (1, 1, gated.SIDE, gated.SIDE))
        _, converted, answers, _ = make(overflowing, {"image": image})
        assert {kept.operator for kept in converted.kept if "FP16 holds 65504" in kept.reason} == {"Mul"}
        assert np.isfinite(answers).all()


# Coloured shapes ------------------------------------------------------------------------------------------------------

TOWERS = ("image", "text")


@pytest.fixture(scope="module")
def shapes_data(tmp_path_factory):
    """A Chinese-CLIP trained for a short time as ``shapes.pt``, and pictures with captions; not to be changed."""
    folder = tmp_path_factory.mktemp("shapes")
    for name in ("shapes", "train", "evaluation"):
        load("shapes", f"{name}.py")
    train, evaluation = sys.modules["train"], sys.modules["evaluation"]
    train.Progress = functools.partial(train.Progress, every_s=1e9)
    (folder / "vocab.txt").write_bytes(train.vocabulary_file())
    plan = train.Plan(steps=120, batch=48, pictures=360, warm_up=20, learning_rate=2e-3)
    train.save(
        train.train(plan, train.WordPieceTokenizer(train.vocabulary_file())).model, folder / "shapes.pt", plan.steps
    )
    evaluation.write_split(folder, "train", 40, 30)
    evaluation.write_split(folder, "valid", 108, 80)
    for name in ("shapes", "train", "evaluation"):
        del sys.modules[name]
    return folder


@pytest.fixture(scope="module")
def shipped_shapes(shapes_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip"
    export(Source("chinese-clip", str(shapes_data / "shapes.pt"), SMALL), folder)
    build_bundle(folder, job(shapes_data, "recall@1", 5.0, ("fp32", "fp16", "int8"), split="valid"))
    return Bundle.open(folder)


class TestShapes:
    def test_every_precision_of_both_towers_is_scored_and_the_choice_holds_the_gate(self, shipped_shapes, shapes_data):
        manifest = shipped_shapes.manifest
        scoring = manifest.scoring
        texts = open_data(shapes_data, ReadOptions(split="valid")).texts
        chance = 100 * np.mean([len(text.image_ids) for text in texts]) / 108
        assert scoring.task == "retrieval"
        assert scoring.metrics["recall@1"].value > 4 * chance
        recipes = ("fp32", "fp16", "int8", "int8-dynamic")
        assert scoring.scores.keys() == {f"{tower}/onnxruntime/{recipe}" for tower in TOWERS for recipe in recipes}
        for tower in TOWERS:
            assert scoring.scores[f"{tower}/onnxruntime/fp32"].drops["recall@1"].value == 0
            assert abs(scoring.scores[f"{tower}/onnxruntime/fp16"].drops["recall@1"].value) <= 2.5
            assert manifest.choices[tower].held
        assert scoring.together.drops["recall@1"].value <= 5

    @pytest.mark.parametrize("tower", TOWERS)
    def test_the_graphs_are_what_they_are_called(self, shipped_shapes, tower):
        half = weights(graph_of(shipped_shapes, tower, "fp16"))
        assert half.keys() & {FLOAT, HALF} == {HALF}
        integers = quantised(graph_of(shipped_shapes, tower, "int8-u8s8"))
        assert len(integers) >= {"image": 3 * 6, "text": 2 * 6}[tower]
        counts = weights(graph_of(shipped_shapes, tower, "int8-u8s8"))
        assert counts[INT8] > 2 * 12 * 128 * 128

    def test_what_was_chosen_answers(self, shipped_shapes):
        picture = np.full((64, 64, 3), (220, 30, 30), np.uint8)
        with torchlift.open(shipped_shapes.path) as pipeline:
            found = pipeline.classify([Image.fromarray(picture)], ["一个红色的圆形", "一个蓝色的方形"])
        assert found.shape == (1, 2)
        assert found.sum() == pytest.approx(1, abs=1e-5)


# Networks that were trained with fake quantisation --------------------------------------------------------------------

TRAINED = """
from pathlib import Path

import torch
from torch import nn
from torch.ao import quantization as ao

from torchlift import Axis, ImageInput, Labels, TensorSpec, module

SYMMETRIC = ao.FakeQuantize.with_args(
    observer=ao.MovingAverageMinMaxObserver,
    quant_min=-127,
    quant_max=127,
    dtype=torch.qint8,
    qscheme=torch.per_tensor_symmetric,
)
CHANNELS = ao.default_per_channel_weight_fake_quant
CONFIGS = {{
    "asymmetric": ao.get_default_qat_qconfig("qnnpack"),
    "symmetric": ao.QConfig(activation=SYMMETRIC, weight=CHANNELS),
    "weights": ao.QConfig(activation=nn.Identity, weight=CHANNELS),
}}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.first, self.norm, self.relu = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()
        self.second, self.relu2 = nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()
        self.third, self.relu3 = nn.Conv2d(16, 16, 3), nn.ReLU()
        self.fc = nn.Linear(16, {classes})

    def forward(self, image):
        x = self.relu(self.norm(self.first(self.quant(image))))
        x = self.relu3(self.third(self.relu2(self.second(x))))
        return self.dequant(self.fc(x.flatten(1)))


def prepared(kind):
    network = Net().train()
    ao.fuse_modules_qat(
        network, [["first", "norm", "relu"], ["second", "relu2"], ["third", "relu3"]], inplace=True
    )
    network.qconfig = CONFIGS[kind]
    return ao.prepare_qat(network, inplace=True)


@module(
    inputs=[TensorSpec("image", "float32", ("batch", 3, {side}, {side}), bounds=(-0.5, 0.5))],
    outputs=["logits"],
    axes=[Axis("batch", 1, 8, 16)],
    preprocess={{"image": ImageInput(({side}, {side}), mean=(0.5, 0.5, 0.5))}},
    postprocess={{"logits": Labels(tuple(f"colour{{i}}" for i in range({classes})), top=2)}},
)
def build():
    network = prepared("{kind}")
    network.load_state_dict(torch.load(Path(__file__).with_suffix(".pt"), weights_only=True))
    return network
"""


def teach(network, steps=120):
    """Train on pictures of the colours, fake-quantised from the first step on."""
    colours = torch.tensor(gated.COLOURS) / 255 - 0.5
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(steps):
        labels = torch.randint(len(colours), (32,))
        images = colours[labels][:, :, None, None] + 0.08 * torch.randn(32, 3, gated.SIDE, gated.SIDE)
        loss = torch.nn.functional.cross_entropy(
            network((images + 0.1 * torch.randn(32, 3, 1, 1)).clip(-0.5, 0.5)), labels
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture
def fake_quantised(tmp_path, monkeypatch):
    """Train a network of a kind, and export it; gives the network and the bundle."""

    def make(kind):
        file = tmp_path / f"trained_{kind}.py"
        file.write_text(TRAINED.format(classes=len(gated.COLOURS), side=gated.SIDE, kind=kind))
        monkeypatch.syspath_prepend(tmp_path)
        torch.manual_seed(0)
        network = teach(importlib.import_module(file.stem).prepared(kind))
        torch.save(network.state_dict(), file.with_suffix(".pt"))
        return network, export(Source("module", f"{file}:build"), tmp_path / "bundle").path

    return make


class TestFakeQuantised:
    @pytest.mark.parametrize(
        ("kind", "runtime", "form"),
        [("asymmetric", "onnxruntime", "int8-u8s8"), ("symmetric", "openvino", "int8-s8s8")],
    )
    def test_scales_are_those_of_the_training(self, fake_quantised, pictures, kind, runtime, form):
        if not backend(runtime).available().ok:
            pytest.skip(f"{runtime} is not here")
        network, path = fake_quantised(kind)
        options = job(pictures, "top1", 2.0, (), calibration=None)
        manifest = build_bundle(path, replace(options, build=BuildOptions((runtime,))))
        bundle = Bundle.open(path)
        assert manifest.graph("model", form).conversion.calibration is None
        found = quantised(graph_of(bundle, "model", form))
        before = {"second.0": network.first, "third.0": network.second, "fc": network.third}
        assert found.keys() == before.keys()
        for module, giver in before.items():
            scale, zero, weight = found[module]
            known = giver.activation_post_process
            assert scale == pytest.approx(known.scale.item(), rel=1e-5)
            assert zero == known.zero_point.item()
            owner = network.get_submodule(module.removesuffix(".0"))
            np.testing.assert_allclose(weight, np.broadcast_to(owner.weight_fake_quant.scale, weight.shape), rtol=1e-5)
        assert manifest.scoring.metrics["top1"].value > 90
        assert manifest.scoring.scores[f"model/{runtime}/int8"].drops["top1"].value <= 2
        assert manifest.choices["model"].held

    def test_weights_alone(self, fake_quantised, pictures):
        network, path = fake_quantised("weights")
        manifest = build_bundle(path, job(pictures, "top1", 2.0, ("fp32", "int8"), calibration=None))
        model = graph_of(Bundle.open(path), "model", "int8-u8s8")
        assert "QuantizeLinear" not in {node.op_type for node in model.graph}
        pairs = {module_of(node): node for node in model.graph if node.op_type == "DequantizeLinear"}
        assert pairs.keys() == {"second.0", "third.0", "fc"}
        for module, pair in pairs.items():
            integers, scale = (value.const_value.numpy() for value in pair.inputs[:2])
            assert integers.dtype == np.int8
            owner = network.get_submodule(module.removesuffix(".0"))
            np.testing.assert_allclose(scale, owner.weight_fake_quant.scale, rtol=1e-5)
        assert manifest.scoring.scores["model/onnxruntime/int8"].drops["top1"].value <= 2

    def test_a_mobilevit_with_the_scales_of_modelopt(self, digits, tmp_path):
        if not backend("openvino").available().ok:
            pytest.skip("openvino is not here")
        file = tmp_path / "digits.pth.tar"
        for name in ("labels.txt", "preprocessor_config.json"):
            (tmp_path / name).write_bytes((digits / name).read_bytes())
        known = with_scales(digits, file)
        path = export(Source("mobilevit", str(file), SMALL), tmp_path / "net").path
        options = job(digits, "top1", 2.0, (), calibration=None, limit=200)
        manifest = build_bundle(path, replace(options, build=BuildOptions(("openvino",))))
        conversion = manifest.graph("model", "int8-s8s8").conversion
        assert [kept.module for kept in conversion.kept] == ["stem.0"]
        assert conversion.calibration is None
        found = quantised(graph_of(Bundle.open(path), "model", "int8-s8s8"))
        assert found["fc"][0] == pytest.approx(known["fc.input"].item() / 127, rel=1e-5)
        np.testing.assert_allclose(found["fc"][2], known["fc.weight"] / 127, rtol=1e-5)
        assert manifest.scoring.scores["model/openvino/int8"].drops["top1"].value <= 3


def with_scales(digits, file):
    """Write the checkpoint with the quantisers' keys of modelopt, at what each layer takes of some pictures."""
    model = MobileViTFamily().load(str(digits / "digits.pth.tar"), LoadOptions())
    network = model.component("model").reference
    known = {}

    def look(path):
        def hook(module, inputs):
            known[f"{path}.input"] = inputs[0].abs().max()
            known[f"{path}.weight"] = module.weight.flatten(1).abs().amax(1)

        return hook

    for path, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_pre_hook(look(path))
    rows = [prepared(model.picture, picture) for picture in sorted((digits / "train").glob("*/*.png"))[::20]]
    network(torch.from_numpy(np.stack(rows)))
    checkpoint = torch.load(digits / "digits.pth.tar", weights_only=True)
    for name, amax in known.items():
        path, _, role = name.rpartition(".")
        checkpoint["state_dict"][f"module.{path}.{role}_quantizer._amax"] = amax
    torch.save(checkpoint, file)
    return known
