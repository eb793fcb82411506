"""The main job end to end: a bundle that is verified, measured, resumed where it was cut off, and free of torch."""

import contextlib
import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import staged
import torch
from PIL import Image
from shipped import torchlift

from torchlift.backends import backend
from torchlift.bundle import Bundle
from torchlift.errors import (
    BackendError,
    BackendUnavailableError,
    BakedInError,
    BundleError,
    CheckpointError,
    InputError,
)
from torchlift.evidence import Entrant
from torchlift.exporter import ExportOptions
from torchlift.families.base import LoadOptions, Model
from torchlift.jobs import JobOptions, build_bundle
from torchlift.jobs.peers import open_peer, peers
from torchlift.jobs.ship import ShipOptions, export, ship
from torchlift.jobs.source import Source, source_of
from torchlift.machine import Gpu, RunOn
from torchlift.messages import entrant_text
from torchlift.pipelines import open_bundle
from torchlift.progress import Progress
from torchlift.prove.verify import proven_here
from torchlift.signature import Axis
from torchlift.stages import BenchOptions, BuildOptions
from torchlift.timing.latency import LatencyOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

HERE = Path(__file__).parents[1]
NETS = HERE / "ship_helpers" / "nets.py"
QUICK = ShipOptions(
    export=ExportOptions("torchscript"),
    bench=BenchOptions((1,), latency=LatencyOptions(rounds=2, turn_seconds=0.01, pause_seconds=0)),
)
ONE = replace(QUICK, build=BuildOptions(("onnxruntime",)))
"""One backend is enough where the question is another."""

TOO_MANY = replace(ONE, bench=BenchOptions((999,)))
"""A batch beyond the range."""

MEASURE = "torchlift.stages.bench.measure_latency"

NET = """
import torch
from pathlib import Path
from torch import nn
import torchlift as tl

@tl.module(inputs=[tl.TensorSpec("x", "float32", ("batch", 4))], outputs=["y"], axes=[tl.Axis("batch", 1, 2, 4)])
def build():
    network = nn.Linear(4, 3)
    network.load_state_dict(torch.load(Path(__file__).with_name("weights.pt"), weights_only=True))
    return network
"""


class Recorder(Progress):
    """Remembers what was begun and noted."""

    def __init__(self):
        self.titles, self.notes = [], []

    def stage(self, title, total=None):
        self.titles.append(title)
        return super().stage(title, total)

    def note(self, text):
        self.notes.append(text)


def clip_checkpoint(folder):
    """A tiny Chinese-CLIP, by the maker of its own tests."""
    file = HERE / "families" / "chinese_clip" / "conftest.py"
    spec = importlib.util.spec_from_file_location("chinese_clip_makers", file)
    makers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(makers)
    return makers.original_file(folder, makers.VIT)


@pytest.fixture(scope="module")
def tiny_source():
    return Source("module", f"{NETS}:tiny")


@pytest.fixture(scope="module")
def tiny_once(tiny_source, tmp_path_factory):
    """The tiny module shipped by all backends; not to be changed."""
    return ship(tiny_source, tmp_path_factory.mktemp("tiny") / "bundle", QUICK)


@pytest.fixture
def old(tiny_once, tmp_path):
    """A bundle that was there before."""
    return Bundle.open(shutil.copytree(tiny_once.path, tmp_path / "out"))


@pytest.fixture
def in_this_process(monkeypatch):
    """Saves the processes that contenders are timed in, and among them PyTorch's, where the question is another."""
    monkeypatch.setattr(MEASURE, staged.in_this_process)


@pytest.fixture
def with_weights(tmp_path):
    """Writes a network with weights from a file beside it; returns its source."""
    (tmp_path / "net.py").write_text(NET)

    def write(seed):
        torch.manual_seed(seed)
        torch.save(torch.nn.Linear(4, 3).state_dict(), tmp_path / "weights.pt")
        return Source("module", f"{tmp_path}/net.py:build")

    yield write
    with contextlib.suppress(ValueError):
        sys.path.remove(str(tmp_path))


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def beside(folder):
    """What lies about next to a bundle."""
    return {p.name for p in folder.parent.iterdir() if p.name.startswith(f".{folder.name}.")}


def assert_complete(bundle, names):
    """Opens, every checksum holds, every component is served by a variant that is proven here."""
    manifest = Bundle.open(bundle.path).manifest
    assert manifest == bundle.manifest
    assert tuple(c.name for c in manifest.components) == names
    assert {*manifest.choices} == {*names} == {*manifest.benchmarks}
    assert {p.relative_to(bundle.path).as_posix() for p in bundle.path.rglob("*") if p.is_file()} == {
        *manifest.files,
        "manifest.json",
    }
    for name, choice in manifest.choices.items():
        variant = manifest.variant(choice.variant)
        assert proven_here(bundle, variant)
        assert variant.verification.passed
        assert {choice.variant, *choice.others} == {v.name for v in manifest.variants_of(name)}
        benchmark = manifest.benchmarks[name]
        assert benchmark.baseline == Entrant("pytorch", "fp32", compiled=False)
        assert benchmark.runtime_of(benchmark.baseline) == f"torch {torch.__version__} eager"
        assert benchmark.failures == ()
        assert {x.contender.name for x in benchmark.latencies} == {
            "pytorch",
            *(v.name for v in manifest.variants_of(name) if v.verification.passed),
        }


# A module.


def test_a_module_is_shipped_with_every_backend(tiny_once):
    assert_complete(tiny_once, ("model",))
    manifest = tiny_once.manifest
    assert {v.backend for v in manifest.variants} >= {"onnxruntime", "openvino"}
    assert all(v.verification.passed for v in manifest.variants)
    assert manifest.made_with["torch"] == torch.__version__
    assert beside(tiny_once.path) == set()


def test_without_batches_the_least_and_the_optimum_are_measured(tiny_source, tmp_path):
    options = replace(ONE, bench=replace(QUICK.bench, batches=()))
    found = ship(tiny_source, tmp_path / "out", options).manifest.benchmarks["model"]
    assert {x.batch for x in found.latencies} == {1, 3}
    eager, variant = (
        found.of(e) for e in (Entrant("pytorch", "fp32", compiled=False), Entrant("model/onnxruntime/fp32"))
    )
    assert [x.speedup for x in eager] == [None, None]
    assert [x.speedup.low <= x.speedup.value <= x.speedup.high for x in variant] == [True, True]


def test_an_export_has_no_variants(tiny_source, tmp_path):
    bundle = export(tiny_source, tmp_path / "out", ExportOptions("torchscript"))
    assert Bundle.open(tmp_path / "out").manifest == bundle.manifest
    assert bundle.manifest.variants == ()
    with pytest.raises(BundleError, match="no variant of model has been chosen"):
        open_bundle(bundle.path)({"x": np.ones((1, 4), np.float32)})


@pytest.mark.usefixtures("in_this_process")
def test_shipping_again_replaces_the_bundle(old, with_weights):
    before = contents(old.path)
    bundle = ship(with_weights(0), old.path, ONE)
    assert bundle.manifest.name == "net.build"
    assert_complete(bundle, ("model",))
    assert contents(old.path).keys() != before.keys()
    assert beside(old.path) == set()


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("factor_as_number", QUICK, BakedInError),
        ("tiny", TOO_MANY, InputError),
        ("tiny", replace(QUICK, build=BuildOptions(("onnxruntime-cuda",))), BackendUnavailableError),
    ],
)
def test_a_ship_that_fails_leaves_the_old_bundle_whole(old, name, options, error):
    before = contents(old.path)
    with pytest.raises(error):
        ship(Source("module", f"{NETS}:{name}"), old.path, options)
    assert contents(old.path) == before
    assert Bundle.open(old.path).manifest == old.manifest
    assert beside(old.path) <= {f".{old.path.name}.partial"}, "neither a lock nor a moved bundle is left"


def test_a_backend_that_is_not_here_is_refused_before_anything_is_read(tmp_path):
    options = replace(QUICK, build=BuildOptions(("onnxruntime-cuda",)))
    with pytest.raises(BackendUnavailableError, match="onnxruntime-cuda cannot be used"):
        ship(Source("module", "nowhere.py:build"), tmp_path / "out", options)


def test_a_folder_of_other_things_is_not_replaced(tiny_source, tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(BundleError, match="exists and is not a bundle") as caught:
        ship(tiny_source, tmp_path, QUICK)
    assert "-o" in caught.value.remedy
    assert (tmp_path / "letters.txt").read_text() == "dear"


def test_a_batch_beyond_the_range_is_refused_before_anything_is_exported(tiny_source, tmp_path):
    recorder = Recorder()
    with pytest.raises(InputError, match=r"batch 999 is outside") as caught:
        ship(tiny_source, tmp_path / "out", TOO_MANY, recorder)
    assert "`axes=batch=" in caught.value.remedy
    assert [title.partition(" ")[0] for title in recorder.titles] == ["read"]
    assert beside(tmp_path / "out") == set()


def test_a_batch_beyond_the_range_is_refused_before_anything_is_built(tiny_once, tmp_path):
    bundle = shutil.copytree(tiny_once.path, tmp_path / "out")
    recorder, before = Recorder(), contents(bundle)
    with pytest.raises(InputError, match=r"batch 999 is outside"):
        build_bundle(bundle, JobOptions(bench=TOO_MANY.bench), recorder)
    assert not [title for title in recorder.titles if title.startswith(("build", "verify"))]
    assert contents(bundle) == before


def test_where_no_signature_is_declared_sizes_are_checked_after_the_export(tiny_source, tmp_path, monkeypatch):
    monkeypatch.setattr("torchlift.families.module.model.UserModel.declared", Model.declared)
    recorder = Recorder()
    with pytest.raises(InputError, match=r"batch 999 is outside"):
        ship(tiny_source, tmp_path / "out", TOO_MANY, recorder)
    assert not [title for title in recorder.titles if title.startswith(("build", "verify"))]


# Resuming.


def cut_off(source, output, options=ONE):
    """Ship, and fail after everything but the measurement."""
    failing = mock.patch("torchlift.jobs.build.bench_and_choose", side_effect=InputError("cut off"))
    with failing, pytest.raises(InputError, match="cut off"):
        ship(source, output, options)


def test_a_rerun_goes_on_from_what_was_finished(with_weights, tmp_path):
    source, out = with_weights(0), tmp_path / "out"
    cut_off(source, out)
    recorder = Recorder()
    assert_complete(ship(source, out, ONE, recorder), ("model",))
    assert recorder.notes == ["model was exported before: kept"]
    assert [t.partition(" ")[0] for t in recorder.titles] == ["read", "open", "measure"], "nothing else was to do"
    assert beside(out) == set()


@pytest.mark.usefixtures("in_this_process")
def test_changed_weights_do_not_resume(with_weights, tmp_path):
    out = tmp_path / "out"
    cut_off(with_weights(0), out)
    recorder = Recorder()
    source = with_weights(1)
    assert_complete(ship(source, out, ONE, recorder), ("model",))
    assert recorder.notes == []
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    with open_bundle(out) as net, torch.inference_mode():
        expected = source.load().component("model").reference(torch.from_numpy(x))[0]
        np.testing.assert_allclose(net({"x": x})["y"], expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("changed", [ExportOptions("torchscript", 17), ExportOptions("torchscript", seed=5)])
def test_other_export_options_do_not_resume(tiny_source, tmp_path, changed):
    cut_off(tiny_source, tmp_path / "out")
    recorder = Recorder()
    bundle = export(tiny_source, tmp_path / "out", changed, recorder)
    assert recorder.notes == []
    assert bundle.manifest.component("model").opset == (changed.opset or 16)


@pytest.mark.usefixtures("in_this_process")
def test_variants_that_were_not_asked_for_again_are_not_shipped(tiny_source, tmp_path):
    cut_off(tiny_source, tmp_path / "out", QUICK)
    bundle = ship(tiny_source, tmp_path / "out", ONE)
    assert {v.backend for v in bundle.manifest.variants} == {"onnxruntime"}
    assert_complete(bundle, ("model",))


def test_an_export_after_a_ship_that_was_cut_off_has_no_variants(tiny_source, tmp_path):
    cut_off(tiny_source, tmp_path / "out")
    recorder = Recorder()
    bundle = export(tiny_source, tmp_path / "out", ExportOptions("torchscript"), recorder)
    assert recorder.notes == ["model was exported before: kept"]
    assert bundle.manifest.variants == ()
    assert bundle.manifest.choices == {}


# Killed and interrupted.


def begin(*arguments):
    """The command line in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "torchlift", "ship", *map(str, arguments)],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def group_is_gone(group, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def read_json(file):
    with contextlib.suppress(OSError, ValueError):
        return json.loads(file.read_text())
    return {}


@pytest.fixture(scope="module")
def clip_once(tmp_path_factory):
    """A tiny Chinese-CLIP: killed once its first tower was exported, then shipped; with what was seen on the way."""
    folder = tmp_path_factory.mktemp("clip")
    checkpoint, out = clip_checkpoint(folder), folder / "out"
    partial = folder / ".out.partial"
    axis = Axis("batch", 1, 4, 8)
    how = ("--rounds", 2, "--exporter", "torchscript", "--axis", "batch=1..4..8")
    process = begin("chinese-clip", "--checkpoint", checkpoint, "-o", out, *how)
    try:
        while not read_json(partial / "manifest.json").get("components"):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    written = read_json(partial / "manifest.json")
    done = [component["name"] for component in written["components"]]
    stamps = stamps_of(partial, written["files"])
    seen = {"stamps": stamps, "out existed": out.exists(), "done": done}
    recorder = Recorder()
    options = replace(QUICK, build=BuildOptions(("onnxruntime", "openvino"), ("fp32",)))
    source = Source("chinese-clip", str(checkpoint), LoadOptions(axes={"": {"batch": axis}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MEASURE, staged.in_this_process)
        return ship(source, out, options, recorder), recorder, seen


def stamps_of(folder, files):
    """What tells whether the files of the first tower were written again."""
    found = {path: (folder / path).stat() for path in files if path.startswith("image/source/")}
    return {path: (status.st_ino, status.st_mtime_ns) for path, status in found.items()}


def test_a_ship_that_was_killed_goes_on_from_the_first_tower(clip_once):
    bundle, recorder, seen = clip_once
    assert not seen["out existed"]
    assert seen["done"][0] == "image"
    assert recorder.notes == [f"{name} was exported before: kept" for name in seen["done"]]
    begun = [title.removeprefix("export ") for title in recorder.titles if title.startswith("export ")]
    exported = [title.partition(" by ")[0] for title in begun]
    assert exported == [name for name in ("image", "text") if name not in seen["done"]]
    assert len(seen["stamps"]) > 1
    assert stamps_of(bundle.path, bundle.manifest.files) == seen["stamps"]
    assert beside(bundle.path) <= {".out.lock"}, "a lock file that a killed process left does not lock"


def test_chinese_clip_is_shipped_with_both_towers(clip_once):
    bundle = clip_once[0]
    assert_complete(bundle, ("image", "text"))
    assert {*bundle.manifest.assets} == {"vocabulary"}
    assert {(v.component, v.backend) for v in bundle.manifest.variants} >= {
        (component, backend) for component in ("image", "text") for backend in ("onnxruntime", "openvino")
    }


def test_a_ship_that_is_interrupted_says_so_and_leaves_the_old_bundle_and_no_process(old):
    before = contents(old.path)
    options = ["--rounds", 1000, "--exporter", "torchscript", "--backend", "onnxruntime"]
    process = begin(f"{NETS}:events", "-o", old.path, *options)
    said = ""
    try:
        for line in process.stderr:
            said += line
            if "measure side by side" in line:
                break
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, rest = process.communicate(timeout=30)
        assert group_is_gone(process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, said + rest
    assert "measure side by side" in said
    assert "interrupted: what was there before is untouched" in rest
    assert "Traceback" not in rest
    assert contents(old.path) == before
    assert beside(old.path) == {f".{old.path.name}.partial"}, "what was finished is there, the lock is not"
    assert read_json(old.path.with_name(f".{old.path.name}.partial") / "manifest.json")["variants"]


# Used without PyTorch.

TORCH_FREE = """
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("torch", "transformers", "onnxscript", "torchvision"):
            raise ImportError(f"{name} was asked for")
sys.meta_path.insert(0, Refuse())
import numpy as np, torchlift
net, clip, picture, feeds, answers = sys.argv[1:]
feeds, found = dict(np.load(feeds)), {}
with torchlift.open(net) as pipeline:
    found["y"] = pipeline({"x": feeds["x"]})["y"]
with torchlift.open(clip) as pipeline:
    for name in ("image", "text"):
        (found[name],) = pipeline.session(name).run({name: feeds[name]}).values()
    found["texts"] = pipeline.encode_text(["t7 t8", "t9"], normalize=False)
    found["ids"] = np.array([pipeline.preparer("text").tokenizers["text"](["t7 t8"]).ids[0]])
    found["pictures"] = pipeline.encode_image([picture])
    found["probabilities"] = pipeline.classify([picture], ["t7 t8", "t9", "t10"])
np.savez(answers, **found)
"""


def test_bundles_that_were_moved_answer_as_pytorch_without_it(tiny_once, clip_once, tmp_path):
    net, clip = (
        shutil.copytree(b.path, tmp_path / n / "moved") for n, b in (("net", tiny_once), ("clip", clip_once[0]))
    )
    towers = Source("chinese-clip", str(clip_once[0].path.parent / "clip.pt")).load()
    parts = {name: towers.component(name) for name in ("image", "text")}
    rng = np.random.default_rng(5)
    feeds = {"x": rng.standard_normal((7, 4)).astype(np.float32)}
    feeds |= parts["image"].sample({"batch": 3}, rng) | parts["text"].sample({"batch": 5, "sequence": 9}, rng)
    np.savez(tmp_path / "feeds.npz", **feeds)
    Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / "picture.png")
    arguments = [net, clip, tmp_path / "picture.png", tmp_path / "feeds.npz", tmp_path / "answers.npz"]
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FREE, *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "answers.npz")
    references = {"y": Source("module", f"{NETS}:tiny").load().component("model").reference}
    references |= {name: part.reference for name, part in parts.items()}
    inputs = {"y": feeds["x"], "image": feeds["image"], "text": feeds["text"]}
    for name, reference in references.items():
        with torch.inference_mode():
            answers = reference(torch.from_numpy(inputs[name]))
            expected = (answers[0] if isinstance(answers, tuple) else answers).numpy()
        difference = np.abs(found[name] - expected).max() / np.abs(expected).max()
        assert difference < tolerance_of(clip_once[0] if name in parts else tiny_once, name), name
    with torch.inference_mode():
        by_hand = parts["text"].reference(torch.from_numpy(found["ids"])).numpy()
    assert np.abs(found["texts"][:1] - by_hand).max() / np.abs(by_hand).max() < tolerance_of(clip_once[0], "text")
    np.testing.assert_allclose(np.linalg.norm(found["pictures"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, rtol=1e-5)


def tolerance_of(bundle, component):
    """What the precision that was chosen here may differ."""
    choice = bundle.manifest.choices["model" if component == "y" else component]
    return bundle.manifest.variant(choice.variant).verification.tolerance.scaled


# PyTorch as a runtime of the target.

BOTH = replace(QUICK, build=BuildOptions(("onnxruntime", "pytorch"), ("fp32",)))


@pytest.fixture(scope="module")
def with_program_once(tiny_source, tmp_path_factory):
    """The tiny module shipped for PyTorch too; not to be changed."""
    return ship(tiny_source, tmp_path_factory.mktemp("program") / "bundle", BOTH)


def test_a_program_is_a_variant_like_any_other(with_program_once):
    assert_complete(with_program_once, ("model",))
    manifest = with_program_once.manifest
    assert [v.name for v in manifest.variants] == ["model/onnxruntime/fp32", "model/pytorch/fp32"]
    variant, graph = manifest.variant("model/pytorch/fp32"), manifest.graph("model", "program")
    assert (variant.model, variant.files) == (graph.model, graph.files) == ("model/program/model.pt2", (graph.model,))
    assert (
        manifest.benchmarks["model"]
        .runtime_of(Entrant(variant.name, variant.precision))
        .startswith(f"torch {torch.__version__} compile")
    )
    assert variant.verification.provenance.runtime == backend("pytorch").version()


@pytest.mark.usefixtures("in_this_process")
def test_a_bundle_with_a_program_is_rebuilt_and_served_elsewhere(with_program_once, tmp_path):
    moved = shutil.copytree(with_program_once.path, tmp_path / "else" / "where")
    bundle = Bundle.open(moved)
    bundle.commit(replace(bundle.manifest, variants=(), benchmarks={}, choices={}))
    options = JobOptions(BuildOptions(("pytorch",), ("fp32",)), bench=QUICK.bench)
    manifest = build_bundle(moved, options)
    assert manifest.choices["model"].variant == "model/pytorch/fp32"
    assert contents(moved)["model/program/model.pt2"] == contents(with_program_once.path)["model/program/model.pt2"]
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    with open_bundle(moved) as served, torch.inference_mode():
        expected = Source("module", f"{NETS}:tiny").load().component("model").reference(torch.from_numpy(x))[0]
        np.testing.assert_allclose(served({"x": x})["y"], expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("in_this_process")
def test_without_pytorch_among_the_backends_a_bundle_has_no_program(tiny_once, with_program_once, tmp_path):
    assert tiny_once.manifest.graphs == ()
    assert not [path for path in tiny_once.manifest.files if path.endswith(".pt2")]
    cut_off(Source("module", f"{NETS}:tiny"), tmp_path / "out", BOTH)
    bundle = ship(Source("module", f"{NETS}:tiny"), tmp_path / "out", ONE)
    assert not [path for path in bundle.manifest.files if path.endswith(".pt2")], "nor one of a run that was cut off"


def test_an_export_has_a_program_where_it_is_asked_for(tiny_source, tmp_path):
    options = JobOptions(BuildOptions(("pytorch",), ("fp32",)), bench=QUICK.bench)
    without = export(tiny_source, tmp_path / "without", ExportOptions("torchscript"))
    with pytest.raises(BackendError, match="nothing that was asked for was built"):
        build_bundle(without.path, options)
    (variant,) = Bundle.open(without.path).manifest.variants
    assert "export with `program=`" in variant.failure
    bundle = export(tiny_source, tmp_path / "out", ExportOptions("torchscript"), forms=("program",))
    assert [g.name for g in bundle.manifest.graphs] == ["model/program"]
    assert bundle.manifest.variants == ()
    recorder = Recorder()
    cut_off(tiny_source, tmp_path / "again", BOTH)
    export(tiny_source, tmp_path / "again", ExportOptions("torchscript"), recorder, forms=("program",))
    assert recorder.notes == ["model was exported before: kept", "model/program was exported before: kept"]


def test_the_command_writes_a_program(tmp_path):
    out = tmp_path / "out"
    done = torchlift("export", f"{NETS}:tiny", "-o", out, "--exporter", "torchscript", "--program", "--json")
    assert done.code == 0, done.err
    assert [g["form"] for g in json.loads(done.out)["graphs"]] == ["program"]


CPU_PEERS = ["pytorch eager", "pytorch compile"]
GPU_PEERS = [
    "pytorch eager",
    "pytorch eager + CUDA graph",
    "pytorch compile",
    "pytorch compile + CUDA graph",
    "pytorch eager fp16",
    "pytorch eager fp16 + CUDA graph",
    "pytorch compile fp16",
    "pytorch compile fp16 + CUDA graph",
]


@pytest.mark.parametrize(
    ("compiled", "cuda_graph", "left_out"),
    [(True, True, ()), (False, True, ("compile",)), (True, False, ("CUDA",)), (False, False, ("compile", "CUDA"))],
)
def test_on_a_gpu_fp16_is_measured_against_pytorch_in_fp16(monkeypatch, tiny_source, compiled, cuda_graph, left_out):
    modes = {"compiled": compiled, "cuda_graph": cuda_graph}

    def names(expected):
        return [name for name in expected if not any(word in name for word in left_out)]

    assert [entrant_text(c.entrant) for c in peers(tiny_source, "model", **modes)] == names(CPU_PEERS)
    h200 = Gpu("NVIDIA H200", "9.0", 1, "580")
    monkeypatch.setattr("torchlift.backends.pytorch.gpu_of", lambda options=None: h200)
    found = peers(tiny_source, "model", **modes)
    assert [entrant_text(c.entrant) for c in found] == names(GPU_PEERS)
    assert all(c.open_on is not None for c in found)
    assert pickle.loads(pickle.dumps(found)), "each is opened in a process of its own"


def test_a_peer_with_graphs_that_records_none_is_an_error(tiny_source):
    with pytest.raises(BackendError, match=r"pytorch eager \+ CUDA graph records none"):
        open_peer(tiny_source, "model", Entrant("pytorch", "fp32", compiled=False, cuda_graph=True), RunOn(1))


def test_a_peer_is_opened_as_its_name_says(tiny_source):
    x = {"x": np.ones((2, 4), np.float32)}
    for contender in peers(tiny_source, "model", RunOn(1), compiled=True):
        assert contender.open_on is None, "the processor is not one of several"
        with contender.open() as session:
            assert (
                session.runtime == f"torch {torch.__version__} {'compile' if contender.entrant.compiled else 'eager'}"
            )
            assert session.run(x)["y"].shape == (2, 3)


def test_the_reference_of_a_bundle_is_what_it_was_made_from(with_weights, tmp_path):
    source = with_weights(0)
    bundle = export(source, tmp_path / "out", ExportOptions("torchscript"))
    found = source_of(bundle.path, source.location)
    assert found.options.axis("model", Axis("batch", 1, 1, 1)) == Axis("batch", 1, 2, 4)
    with_weights(1)
    with pytest.raises(CheckpointError, match=r"net\.py:build is not what out was made from") as caught:
        source_of(bundle.path, source.location)
    assert "ship this one" in caught.value.remedy
