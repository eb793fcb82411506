"""What can be said of TensorRT without it, and what its builds depend on."""

import contextlib
import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from torchlift.backends import Availability, Compilation, CompileOptions, SessionOptions, backend, tensorrt
from torchlift.backends.tensorrt import TensorRt, builder
from torchlift.backends.tensorrt.record import ENGINE, EngineRecord, read_record, source_of
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, BackendUnavailableError, EngineError, SignatureError
from torchlift.machine import Gpu
from torchlift.manifest import Graph
from torchlift.progress import Progress
from torchlift.signature import Axis, Profile
from torchlift.stages import build_variant
from torchlift.stages.build import compilation_of

INSTALL = 'pip install "torchlift[tensorrt]"'
H200 = Gpu("NVIDIA H200", "9.0", 150_754_820_096, "580.159.04")
FP32, FP16 = "model/tensorrt/fp32", "model/tensorrt/fp16"


@pytest.fixture
def absent():
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed")


def test_it_is_not_installed_here_and_says_what_to_install(absent):
    assert backend("tensorrt").available() == Availability(False, "tensorrt is not installed", INSTALL)


@pytest.mark.parametrize("call", ["require", "build", "open", "layers"])
def test_what_is_not_available_is_not_used(absent, source, tmp_path, call):
    arguments = {
        "require": (),
        "build": (source, tmp_path, tiny.SIGNATURE),
        "open": (source, tiny.SIGNATURE),
        "layers": (source, tiny.SIGNATURE, {"x": tiny.sample(1)}),
    }
    with pytest.raises(BackendUnavailableError, match="the backend tensorrt cannot be used: tensorrt is not") as caught:
        getattr(backend("tensorrt"), call)(*arguments[call])
    assert caught.value.remedy == INSTALL
    assert [*tmp_path.iterdir()] == []


@pytest.fixture
def here(monkeypatch):
    """As if that release and those GPUs were here."""

    def put(release="10.13.2.6", gpus=(H200,)):
        monkeypatch.setattr(tensorrt, "installed_version", lambda name: release if name == "tensorrt" else None)
        monkeypatch.setattr(tensorrt, "gpus", lambda: gpus)

    put()
    return put


def test_a_package_that_cannot_be_loaded_is_said(absent, here):
    state = backend("tensorrt").available()
    assert (state.ok, state.detail) == (False, "it cannot be loaded: No module named 'tensorrt'")
    assert state.remedy == f"{INSTALL}: it needs CUDA's libraries too."


def test_the_version_is_of_the_package_and_names_the_gpu_and_its_driver(here):
    assert backend("tensorrt").version() == "tensorrt 10.13.2.6 on NVIDIA H200, driver 580.159.04"
    here(gpus=())
    assert backend("tensorrt").version() == "tensorrt 10.13.2.6"
    here(release=None, gpus=())
    assert backend("tensorrt").version() == "tensorrt"


@pytest.fixture
def fails(here, monkeypatch, source, tmp_path):
    """A build in which TensorRT's bindings raise what is given."""

    def run(error):
        def build_engine(*given):
            raise error

        monkeypatch.setattr(TensorRt, "require", lambda self: None)
        monkeypatch.setattr(tensorrt, "_release", lambda: "10.13.2.6")
        monkeypatch.setattr(builder, "build_engine", build_engine)
        backend("tensorrt").build(source, tmp_path, tiny.SIGNATURE)

    return run


def test_what_the_bindings_raise_is_an_error_of_the_backend(fails):
    raised = TypeError("set_shape(): incompatible function arguments")
    with pytest.raises(BackendError, match=r"TensorRT 10\.13\.2\.6 built no engine: TypeError: set_sha") as caught:
        fails(raised)
    assert caught.value.__cause__ is raised
    assert caught.value.remedy == "Use another precision, backend or release of TensorRT."


@pytest.mark.parametrize("error", [SignatureError("no such axis"), PermissionError("cache")], ids=str)
def test_what_says_itself_what_is_wrong_stays_as_it_is(fails, error):
    with pytest.raises(type(error)) as caught:
        fails(error)
    assert caught.value is error


def layer(kind):
    told = {"Name": "a", "Location": "Device", "Dimensions": [1, 8], "Format/Datatype": kind}
    return json.dumps({"Name": "gemm", "LayerType": "gemm", "Inputs": [told], "Outputs": [told]})


@pytest.fixture
def described(here, monkeypatch):
    """As if an engine of two profiles were built, of which the layers of each are these; what it is asked for."""
    profiles, asked = ((Axis("batch", 1, 1, 1),), (Axis("batch", 1, 1, 8),)), []

    def put(*layers):
        def describe(sizes, profile):
            asked.append((sizes, profile))
            return layers[profile]

        session = SimpleNamespace(describe=describe)
        monkeypatch.setattr(TensorRt, "require", lambda self: None)
        monkeypatch.setattr(tensorrt, "_release", lambda: "10.13.2.6")
        monkeypatch.setattr(builder, "build_engine", lambda *given: builder.Built(b"an engine", profiles))
        monkeypatch.setattr(TensorRt, "_session_of", lambda self, *given: contextlib.nullcontext(session))
        return asked

    return put


def test_the_precision_of_every_profile_is_read_back_at_what_it_is_tuned_for(described, source, tmp_path):
    asked = described([layer("Float")], [layer("Half")])
    with pytest.raises(BackendError, match="the engine does not compute in fp32"):
        backend("tensorrt").build(source, tmp_path, tiny.SIGNATURE)
    assert asked == [({"batch": 1}, 0), ({"batch": 1}, 1)]


def test_layers_in_other_types_are_a_note_of_the_build(described, monkeypatch, source, tmp_path):
    described([layer("Half")], [layer("Half"), layer("Float")])
    notes = []
    monkeypatch.setattr(Progress, "note", lambda self, text: notes.append(text))
    backend("tensorrt").build(source, tmp_path, tiny.SIGNATURE, Compilation("fp16"))
    assert notes == ["1 of 2 layers compute in another type than fp16: gemm (fp32)"]


@pytest.mark.parametrize("relative", [False, True])
def test_a_record_says_what_an_engine_was_built_from_and_with(described, monkeypatch, source, tmp_path, relative):
    described([layer("Float")], [layer("Float")])
    graph = Path(shutil.copytree(source.parent, tmp_path / "clip" / "source")) / source.name
    staged, library = tmp_path / ".clip.tensorrt-fp32.partial", tmp_path / "operators.so"
    staged.mkdir()
    library.write_bytes(b"a library")
    options = CompileOptions(workspace=64 << 20, plugins=(library,))
    monkeypatch.chdir(graph.parent)
    given = Path(graph.name) if relative else graph
    backend("tensorrt").build(given, staged, tiny.SIGNATURE, Compilation(options=options))
    engine = staged.rename(tmp_path / "clip" / "tensorrt-fp32") / ENGINE
    record = read_record(engine, "10.13.2.6", H200)
    assert source_of(engine, record) == graph
    assert (record.source, record.stripped, record.workspace) == ("../source/model.onnx", False, 64 << 20)


def test_an_engine_of_another_graph_is_neither_opened_nor_read(described, source, tmp_path):
    described([layer("Float")], [layer("Float")])
    graph = Path(shutil.copytree(source.parent, tmp_path / "source")) / source.name
    (tmp_path / "engine").mkdir()
    runtime = backend("tensorrt")
    engine = tmp_path / "engine" / runtime.build(graph, tmp_path / "engine", tiny.SIGNATURE)
    runtime.open(engine, tiny.SIGNATURE)
    graph.write_bytes(b"another")
    with pytest.raises(EngineError, match="was built from another graph than"):
        runtime.open(engine, tiny.SIGNATURE)
    graph.unlink()
    with pytest.raises(EngineError, match=r"was built from .*model\.onnx, which is gone"):
        runtime.layers(engine, tiny.SIGNATURE, {"x": tiny.sample(1)}, source=graph)


@pytest.mark.parametrize("stripped", [False, True])
def test_only_a_stripped_engine_is_given_the_weights_of_its_graph(here, monkeypatch, source, tmp_path, stripped):
    given, engines = [], []
    monkeypatch.setattr(TensorRt, "require", lambda self: None)
    monkeypatch.setattr(tensorrt, "_release", lambda: "10.13.2.6")
    monkeypatch.setattr(tensorrt, "on_device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(builder, "build_engine", lambda *given: builder.Built(b"an engine", ((),)))
    monkeypatch.setattr(builder, "load_plugins", lambda libraries: None)
    monkeypatch.setattr(builder, "refit", lambda engine, source, version: given.append((engine, source, version)))
    monkeypatch.setattr("torchlift.backends.tensorrt.session.TensorRtSession", lambda *given: None)
    monkeypatch.setattr("torchlift.backends.tensorrt.engines.Engines", lambda *given, **how: engines.append(how))
    graph = Path(shutil.copytree(source.parent, tmp_path / "source")) / source.name
    (tmp_path / "engine").mkdir()
    runtime, options = backend("tensorrt"), CompileOptions(stripped=True)
    engine = (
        tmp_path / "engine" / runtime.build(graph, tmp_path / "engine", tiny.SIGNATURE, Compilation(options=options))
    )
    record = EngineRecord(**json.loads(engine.with_name("engine.json").read_text()))
    assert record.stripped
    replace(record, stripped=stripped).write(engine.parent)
    runtime.open(engine, tiny.SIGNATURE)
    (how,) = engines
    if stripped:
        how["finish"]("the engine")
        assert given == [("the engine", graph, "10.13.2.6")]
    else:
        assert how["finish"] is None


@pytest.mark.parametrize("package", ["tensorrt", "tensorrt-cu11", "tensorrt-cu12", "tensorrt-cu13"])
def test_any_package_of_it_will_do(monkeypatch, package):
    monkeypatch.setattr(tensorrt, "installed_version", lambda name: "10.0.1" if name == package else None)
    assert backend("tensorrt").version().startswith("tensorrt 10.0.1")


@pytest.mark.parametrize("device", [-1, 1, 7])
def test_a_gpu_that_is_not_there_is_named(here, device):
    with pytest.raises(BackendError, match=f"there is no GPU {device}") as caught:
        tensorrt._gpu(device)
    assert caught.value.remedy == "This process may use 1 of them."
    assert tensorrt._gpu(0) == H200


def test_it_compiles_replays_cuda_graphs_and_int8_is_what_its_engines_take():
    runtime = backend("tensorrt")
    assert (runtime.compiles, runtime.replays, runtime.opens_graphs) == (True, True, False)
    assert runtime.recipe("int8").form.name == "int8-s8s8"
    assert SessionOptions().cuda_graph is False


# what a build depends on


@pytest.fixture
def builds(here, monkeypatch):
    """In place of TensorRT something that leaves a file, or fails as told; remembers what it was told."""

    class Builds:
        told: tuple = ()
        failure = ""

    def build(self, source, folder, signature, compilation):
        Builds.told += (compilation,)
        if Builds.failure:
            raise BackendError(Builds.failure)
        (folder / "model.engine").write_bytes(b"an engine")
        return "model.engine"

    monkeypatch.setattr(TensorRt, "build", build)
    return Builds


@pytest.fixture
def halved(bundle):
    """The tiny bundle with a graph in FP16, which is its own."""
    component = bundle.manifest.component("model")
    bundle.commit(bundle.manifest.with_graph(Graph("model", "fp16", "key", component.model, (component.model,))))
    return bundle


def built(bundle, recipe="fp32", **compiling):
    component = bundle.manifest.component("model")
    return build_variant(bundle, component, "tensorrt", recipe, compiling=CompileOptions(**compiling))


def batches(*texts):
    return tuple(Profile.parse(text) for text in texts)


def test_what_was_built_with_the_same_is_kept(bundle, builds):
    first = built(bundle, profiles=batches("batch=1:2:4"), workspace=1 << 30)
    assert built(bundle, profiles=batches("batch=1:2:4"), workspace=1 << 30) == first
    assert len(builds.told) == 1
    assert first.files == ("model/tensorrt-fp32/model.engine",)


def test_what_is_told_to_the_compiler_is_what_was_asked_for(bundle, builds):
    built(bundle, profiles=batches("batch=1:1:2", "model.batch=4:4:8", "length=1:2:3"), workspace=1 << 20)
    (told,) = builds.told
    assert told.recipe == "fp32"
    assert told.profiles == ((Axis("batch", 1, 1, 2),), (Axis("batch", 4, 4, 8),)), "it has no axis length"
    assert told.options.workspace == 1 << 20


@pytest.mark.parametrize(
    "changed",
    [
        {"profiles": batches("batch=1:2:8")},
        {"profiles": batches("batch=1:4:8", "batch=1")},
        {"workspace": 1 << 30},
        {"version_compatible": True},
        {"hardware_compatible": True},
        {"stripped": True},
    ],
    ids=str,
)
def test_other_options_are_another_build(bundle, builds, changed):
    first = built(bundle, profiles=batches("batch=1:4:8"))
    assert built(bundle, **{"profiles": batches("batch=1:4:8"), **changed}).key != first.key
    assert len(builds.told) == 2


def test_a_profile_that_says_the_same_otherwise_is_the_same_build(bundle, builds):
    first = built(bundle, profiles=batches("batch=1:4:8"))
    assert built(bundle, profiles=batches("model.batch=1:4:8", "text.batch=1:1:1")) == first


def test_another_recipe_is_another_build(halved, builds):
    assert built(halved, "fp16").key != built(halved, "fp32").key
    assert [told.recipe for told in builds.told] == ["fp16", "fp32"]


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"release": "10.14.1"},
        {"gpus": (replace(H200, name="NVIDIA A100"),)},
        {"gpus": (replace(H200, driver="570.1"),)},
        {"gpus": ()},
    ],
    ids=str,
)
def test_another_release_gpu_or_driver_is_another_build(bundle, builds, here, elsewhere):
    first = built(bundle)
    here(**elsewhere)
    assert built(bundle).key != first.key


def test_a_library_goes_by_its_name_and_content_and_not_by_its_place(bundle, builds, tmp_path):
    def library(folder, content, name="operators.so"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_bytes(content)
        return (tmp_path / folder / name,)

    first = built(bundle, plugins=library("a", b"one")).key
    assert built(bundle, plugins=library("b", b"one")).key == first
    others = [library("a", b"two"), library("c", b"one", "others.so"), ()]
    keys = {built(bundle, plugins=plugins).key for plugins in others}
    assert len({first, *keys}) == 4


def test_timings_of_kernels_are_kept_beside_the_bundle_and_change_nothing(bundle, builds, tmp_path):
    first = built(bundle)
    cache = builds.told[0].timing_cache
    assert cache.parent == bundle.path.parent
    assert cache.name.startswith(".tiny.")
    cache.write_bytes(b"what was learnt")
    assert built(bundle) == first
    moved = Bundle.open(shutil.copytree(bundle.path, tmp_path / "moved"))
    assert built(moved) == first
    assert len(builds.told) == 1


def test_timings_are_of_one_release_on_one_gpu_and_outlive_the_staging(bundle, here):
    def cache(of=bundle, recipe="fp32"):
        component = bundle.manifest.component("model")
        return compilation_of(of, component, "tensorrt", recipe, CompileOptions()).timing_cache

    first = cache()
    assert cache(recipe="fp16") == first
    assert cache(Bundle(bundle.path.with_name(".tiny.partial"), bundle.manifest)) == first
    here(release="10.14.1")
    assert cache() != first
    here(gpus=(replace(H200, name="NVIDIA A100"),))
    assert cache() != first


def test_a_profile_beyond_the_component_s_range_ends_the_build(bundle, builds):
    with pytest.raises(SignatureError, match=r"the profile batch=1:8:16 is outside 1\.\.8"):
        built(bundle, profiles=batches("batch=1:8:16"))
    assert bundle.manifest.variants == ()


class Notes(Progress):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def test_an_engine_stays_where_building_it_anew_fails(bundle, builds):
    first, notes = built(bundle), Notes()
    before = bundle.manifest
    builds.failure = "TensorRT 10.13.2.6 built no engine: it gave no reason"
    component = bundle.manifest.component("model")
    options = CompileOptions(workspace=1)
    assert build_variant(bundle, component, "tensorrt", "fp32", notes, options) == first
    assert bundle.manifest == before
    assert Bundle.open(bundle.path).file(first.model).read_bytes() == b"an engine"
    assert notes.said == [f"{FP32} stays as it was: {builds.failure}"]


def test_what_was_never_built_has_the_reason(bundle, builds):
    builds.failure = "no room"
    variant = built(bundle)
    assert (variant.name, variant.failure, variant.files) == (FP32, "no room", ())
    builds.failure = ""
    assert built(bundle).failure == ""


def test_one_recipe_that_fails_leaves_the_other_alone(halved, builds):
    first = built(halved, "fp32")
    builds.failure = "no room"
    assert built(halved, "fp16").failure == "no room"
    assert halved.manifest.variant(FP32) == first
    assert halved.manifest.variant(FP16).files == ()
