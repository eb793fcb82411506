"""What needs a GPU and TensorRT, and no torch."""

import _ctypes
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny
import wide
from onnx.reference import ReferenceEvaluator
from sharing import THREADS, assert_shared, closed_while_running

from torchlift.backends import Compilation, CompileOptions, SessionOptions, backend
from torchlift.backends.cuda import Buffer, DeviceArray, Stream, to_device, to_host
from torchlift.backends.tensorrt import builder
from torchlift.backends.tensorrt.inspector import read_layers, require_precision
from torchlift.backends.tensorrt.releases import release_of
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, EngineError, ParserError, ProfileError, SignatureError
from torchlift.evidence import Entrant
from torchlift.graph.files import save_model
from torchlift.graph.half import ToHalf
from torchlift.graph.quantize import Quantize
from torchlift.graph.schemes import SCHEMES
from torchlift.graph.units import name_nodes
from torchlift.jobs import JobOptions, bench_bundle, build_bundle
from torchlift.machine import RunOn, gpus
from torchlift.messages import run_text
from torchlift.prove.numerics import compare
from torchlift.signature import Axis, Profile, Signature, TensorSpec
from torchlift.stages import BenchOptions, BuildOptions, layers_of
from torchlift.timing.latency import LatencyOptions

STATE = backend("tensorrt").available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not STATE.ok, reason=STATE.detail)]

QUICK = BenchOptions((1, 8), latency=LatencyOptions(rounds=2, turn_seconds=0.01, pause_seconds=0.0))


def options(precision="fp32", **compiling):
    return JobOptions(build=BuildOptions(("tensorrt",), (precision,)), compile=CompileOptions(**compiling), bench=QUICK)


def variant_of(manifest, precision="fp32"):
    return manifest.variant(f"model/tensorrt/{precision}")


def proven(*goldens):
    """What is compared: each golden as it runs, and replayed from a CUDA graph."""
    return {name for golden in goldens for name in (golden, f"{golden}, replayed")}


def opened(bundle, precision="fp32", **session):
    variant = variant_of(bundle.manifest, precision)
    return backend("tensorrt").open(
        bundle.file(variant.model),
        bundle.manifest.component("model").signature,
        variant.recipe,
        SessionOptions(**session),
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The wide bundle with an FP32 and an FP16 engine, of the default profiles; not to be changed."""
    made = wide.make_bundle(tmp_path_factory.mktemp("engine") / "wide")
    build_bundle(made.path, options("fp32"))
    build_bundle(made.path, options("fp16"))
    return Bundle.open(made.path)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_proven_measured_and_chosen(engine, precision):
    variant = variant_of(engine.manifest, precision)
    assert not variant.failure
    assert variant.verification.passed, variant.verification.failures
    assert {run_text(check) for check in variant.verification.checks} == proven("min", "opt", "max")
    assert variant.verification.invariance
    times = engine.manifest.benchmarks["model"].of(Entrant(variant.name, variant.precision))
    assert [x.batch for x in times] == [1, 8]
    assert all(0 < x.median < x.copied for x in times)
    assert engine.manifest.choices["model"].variant.startswith("model/tensorrt/")


def test_the_layers_say_what_they_compute_in_and_of_which_nodes(engine):
    by_precision = {p: layers_of(engine.path, f"model/tensorrt/{p}") for p in ("fp32", "fp16")}
    assert all(any(layer.seconds > 0 for layer in layers) for layers in by_precision.values())
    assert "fp16" in {layer.precision for layer in by_precision["fp16"]}
    assert {layer.precision for layer in by_precision["fp32"]} <= {"fp32"}
    assert any("product" in node for layer in by_precision["fp32"] for node in layer.nodes)


def test_an_engine_that_does_not_compute_in_what_was_asked_for_is_an_error(engine):
    with opened(engine) as session:
        fp32 = read_layers(session.describe({"batch": 4}))
    require_precision(fp32, "fp32")
    with pytest.raises(BackendError, match="does not compute in fp16"):
        require_precision(fp32, "fp16")


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_shapes_alternate_also_more_than_there_are_graphs_on_every_gpu(engine, cuda_graph):
    for device in range(len(gpus())):
        with opened(engine, on=RunOn(device=device), cuda_graph=cuda_graph, graphs=2) as session:
            for rows in (1, 8, 3, 1, 5, 8, 2):
                x = wide.sample(rows, seed=rows)
                np.testing.assert_allclose(session.run({"x": x})["y"], wide.answer(x), rtol=1e-3, atol=1e-4)


SHARED = [{"x": wide.sample(1 + i // THREADS, seed=i)} for i in range(4 * THREADS)]
"""Four batch sizes for each thread."""


@pytest.mark.parametrize(("cuda_graph", "graphs"), [(False, 8), (True, 8), (True, 2)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_thread_gets_the_answers_to_its_own_inputs(engine, precision, cuda_graph, graphs):
    with opened(engine, precision, cuda_graph=cuda_graph, graphs=graphs) as session:
        assert_shared([session], SHARED, rtol=1e-3, atol=1e-3, timeout=300)


def test_sessions_record_their_graphs_while_others_work(engine):
    with (
        opened(engine, "fp32", cuda_graph=True, graphs=2) as one,
        opened(engine, "fp16", cuda_graph=True, graphs=2) as two,
    ):
        assert_shared([one, two], SHARED, rtol=1e-3, atol=1e-3, timeout=300)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_session_may_be_closed_while_threads_run_it(engine, cuda_graph):
    answered = closed_while_running(opened(engine, cuda_graph=cuda_graph), SHARED, timeout=300)
    for number, answers in enumerate(answered):
        expected = wide.answer(SHARED[number]["x"])
        for answer in answers:
            np.testing.assert_allclose(answer["y"], expected, rtol=1e-3, atol=1e-4)


def test_tensors_on_the_device_are_read_and_answered_there(engine):
    for graphed in (False, True):
        with opened(engine, cuda_graph=graphed) as session:
            stream, buffer, x = Stream(), Buffer(), wide.sample(3)
            buffer.reserve(x.nbytes)
            to_device(x, buffer.address, stream)
            stream.synchronize()
            given = DeviceArray(buffer.address, x.shape, x.dtype, 0, buffer.block)
            y = session.run_on_device({"x": given})["y"]
            answer = np.empty(y.shape, y.dtype)
            to_host(y.address, answer, y.stream)
            y.stream.synchronize()
            np.testing.assert_allclose(answer, wide.answer(x), rtol=1e-3, atol=1e-4)
            with pytest.raises(SignatureError, match="int32"):
                session.run_on_device({"x": replace(given, dtype=np.dtype("int32"))})


def test_what_no_profile_holds_is_refused_and_what_one_holds_is_proven(tmp_path):
    bundle = tiny.make_bundle(tmp_path / "tiny")
    manifest = build_bundle(bundle.path, options(profiles=(Profile.parse("batch=1:1:2"), Profile.parse("batch=4:4:5"))))
    proof = variant_of(manifest).verification
    assert proof.passed, proof.failures
    assert {run_text(c) for c in proof.checks} == proven("min", "opt", "max, 5 of 8 rows")
    assert [x.batch for x in manifest.benchmarks["model"].of(Entrant("model/tensorrt/fp32"))] == [1]
    with opened(Bundle.open(bundle.path)) as session:
        session.run({"x": tiny.sample(4)})
        with pytest.raises(ProfileError, match=r"batch 3; it has batch 1\.\.2; batch 4\.\.5") as raised:
            session.run({"x": tiny.sample(3)})
        assert raised.value.remedy.endswith(
            ": `profiles=model.batch=3:3:3` `profiles=model.batch=1:1:2` `profiles=model.batch=4:4:5`."
        )


def test_a_build_that_fails_leaves_the_engine_of_before(tmp_path):
    bundle = tiny.make_bundle(tmp_path / "tiny")
    before = variant_of(build_bundle(bundle.path, options()))
    library = tmp_path / "operators.so"
    library.write_text("no library")
    with pytest.raises(BackendError, match=r"operators\.so cannot be loaded"):
        build_bundle(bundle.path, options(plugins=(library,)))
    after = variant_of(Bundle.open(bundle.path).manifest)
    assert after.files == before.files
    assert not after.failure


def test_a_library_of_operators_is_kept_and_loaded_with_the_engine_and_no_other_is(tmp_path):
    library = shutil.copy(_ctypes.__file__, tmp_path / "operators.so")
    bundle = tiny.make_bundle(tmp_path / "tiny")
    variant = variant_of(build_bundle(bundle.path, options(plugins=(library,), workspace=64 << 20)))
    assert not variant.failure
    assert variant.verification.passed, variant.verification.failures
    built = Bundle.open(bundle.path)
    kept = built.file(variant.model).with_name("operators.so")
    with opened(built) as session:
        x = tiny.sample(4)
        np.testing.assert_allclose(session.run({"x": x})["y"], tiny.answer(x), rtol=1e-3, atol=1e-4)
    assert str(kept) in Path("/proc/self/maps").read_text()
    kept.unlink()  # to write into a library that is loaded would end this process
    kept.write_bytes(b"another")
    with pytest.raises(EngineError, match=r"operators\.so is not what was built") as raised:
        opened(built)
    assert raised.value.remedy.endswith("`workspace=64` `plugins=operators.so`; give your own copy of operators.so.")


def test_the_command_line_runs_an_engine(engine, tmp_path):
    x = wide.sample(3)
    np.save(tmp_path / "x.npy", x)
    asked = ["--variant", "model/tensorrt/fp32", "--input", f"x={tmp_path / 'x.npy'}", "--json"]
    ran = subprocess.run(
        [sys.executable, "-m", "torchlift", "run", str(engine.path), *asked], capture_output=True, text=True, check=True
    )
    np.testing.assert_allclose(json.loads(ran.stdout)["y"], wide.answer(x), rtol=1e-3, atol=1e-4)


def test_an_engine_that_was_replaced_while_it_is_open_is_not_loaded_again(engine, tmp_path):
    import tensorrt as trt

    copy = Bundle.open(shutil.copytree(engine.path, tmp_path / "copy"))
    with opened(copy, cuda_graph=True, graphs=4) as session:
        session.run({"x": wide.sample(8)})
        copy.file(variant_of(copy.manifest).model).write_bytes(b"another")
        session.run({"x": wide.sample(8)})
        if not release_of(str(trt.__version__)).shared_profiles:
            with pytest.raises(EngineError, match="is not what was built"):
                session.run({"x": wide.sample(5)})


def test_timings_of_kernels_are_kept_beside_the_bundle_and_the_next_build_starts_from_them(tmp_path, monkeypatch):
    started, start_from = [], builder._start_from

    def starting(config, timings):
        started.append((timings, start_from(config, timings)))
        return started[-1][1]

    monkeypatch.setattr(builder, "_start_from", starting)
    bundle = tiny.make_bundle(tmp_path / "tiny")
    build_bundle(bundle.path, options())
    (kept,) = tmp_path.glob(".tiny.*.timing")
    before = kept.read_bytes()
    assert before
    build_bundle(bundle.path, options(profiles=(Profile.parse("batch=1:2:3"),)))
    assert started == [(b"", True), (before, True)]
    assert len(kept.read_bytes()) >= len(before)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("gpu", "NVIDIA T4", "it was built on an NVIDIA T4"),
        ("driver", "470.1", "it was built with driver 470.1"),
        ("tensorrt", "7.0", r"it was built by TensorRT 7\.0"),
        ("engine", "0" * 64, "it was cut off or changed"),
        ("graph", "0" * 64, r"was built from another graph than .*model\.onnx is now"),
        ("source", "../fp32/model.onnx", r"was built from .*fp32.model\.onnx, which is gone"),
    ],
)
def test_a_foreign_stale_or_changed_engine_is_refused(engine, tmp_path, field, value, said):
    copy = Bundle.open(shutil.copytree(engine.path, tmp_path / "copy"))
    record = copy.file(variant_of(copy.manifest).model).with_name("engine.json")
    record.write_text(json.dumps({**json.loads(record.read_text()), field: value}))
    with pytest.raises(EngineError, match=said) as raised:
        opened(copy)
    assert f"torchlift build {copy.path} `backends=tensorrt` `precisions=fp32`" in raised.value.remedy


def test_an_operator_that_the_parser_lacks_is_named(tmp_path):
    file = tmp_path / "model.onnx"
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Mystery", ["x"], ["y"], name="strange", domain="unheard.of")],
        "unknown",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", tiny.WIDTH])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", tiny.OUTPUTS])],
    )
    opsets = [onnx.helper.make_opsetid("", 16), onnx.helper.make_opsetid("unheard.of", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), file)
    with pytest.raises(ParserError, match=r"cannot read Mystery \(strange\)"):
        backend("tensorrt").build(file, tmp_path, tiny.SIGNATURE)


def activated(activation, value, result):
    """Nodes that write ``result``: an operator, or SiLU."""
    make = onnx.helper.make_node
    if activation != "Silu":
        return [make(activation, [value], [result], name="bent")]
    return [make("Sigmoid", [value], ["gate"], name="gate"), make("Mul", [value, "gate"], [result], name="bent")]


def product(activation):
    """One product of integers, activated."""
    proto = tiny.model()
    del proto.graph.node[-1]
    proto.graph.node.extend(activated(activation, "sum", "y"))
    return proto, {"x": (-4.0, 4.0)}, tiny.sample(4)


def products(activation):
    """Two products of integers with an activation between."""
    rng = np.random.default_rng(0)
    proto, _, x = product(activation)
    proto.graph.node[-1].output[0] = "middle"
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["middle", "second"], ["y"], name="second"))
    square = rng.standard_normal((tiny.OUTPUTS, tiny.OUTPUTS), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(square, "second"))
    return proto, {"x": (-4.0, 4.0), "middle": (-20.0, 20.0)}, x


def convolutions(activation):
    """A convolution of floats, then one of integers, activated."""
    rng = np.random.default_rng(0)
    shapes = {"stem": (32, 3, 3, 3), "deep": (64, 32, 3, 3)}
    held = {
        f"{name}.w": rng.standard_normal(s, np.float32) / np.float32(np.prod(s[1:]) ** 0.5)
        for name, s in shapes.items()
    }
    held |= {f"{name}.b": rng.standard_normal(s[0], np.float32) for name, s in shapes.items()}
    held["axes"] = np.array([2, 3])
    make, info = onnx.helper.make_node, partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph(
        [
            make("Conv", ["x", "stem.w", "stem.b"], ["a"], name="stem", pads=[1] * 4),
            make("Relu", ["a"], ["b"], name="relu"),
            make("Conv", ["b", "deep.w", "deep.b"], ["c"], name="deep", pads=[1] * 4),
            *activated(activation, "c", "d"),
            make("ReduceMean", ["d", "axes"], ["y"], name="mean", keepdims=0),
        ],
        "convolutions",
        [info("x", shape=["batch", 3, 14, 14])],
        [info("y", shape=["batch", 64])],
        [onnx.numpy_helper.from_array(array, name) for name, array in held.items()],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return proto, {"b": (0.0, 6.0)}, rng.standard_normal((4, 3, 14, 14), np.float32)


def side_by_side(networks):
    """Networks as one, so that one engine shows them all: each with its names behind a prefix, and its own input."""
    whole, ranges, feeds = None, {}, {}
    for name, (proto, known, x) in networks.items():
        graph = onnx.compose.add_prefix(proto, f"{name}.").graph
        if whole is None:
            whole = onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
        else:
            for field in ("node", "initializer", "input", "output"):
                getattr(whole.graph, field).extend(getattr(graph, field))
        ranges |= {f"{name}.{value}": span for value, span in known.items()}
        feeds[f"{name}.x"] = x
    for value in (*whole.graph.input, *whole.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return whole, ranges, feeds


def specs(values):
    shapes = {v.name: tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
    return tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items())


@pytest.mark.parametrize("recipe", ["int8", "int8-fp16"])
@pytest.mark.parametrize(
    ("network", "activations"),
    [
        (product, ["Identity", "Relu", "Tanh", "Gelu", "Sigmoid", "Silu"]),
        (products, ["Relu", "Silu"]),
        (convolutions, ["Relu", "Sigmoid", "Silu"]),
    ],
)
def test_int8_is_built_from_pairs_in_the_graph_and_is_right(tmp_path, network, activations, recipe):
    proto, ranges, feeds = side_by_side({name: network(name) for name in activations})
    floats = ReferenceEvaluator(proto).run(None, feeds)
    model = ir.from_proto(proto)
    name_nodes(model)
    Quantize(SCHEMES["int8-s8s8"], ranges)(model)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == len(ranges)
    integers = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)
    if recipe == "int8-fp16":
        ToHalf({})(model)
    save_model(model, tmp_path / "model.onnx")
    signature = Signature(specs(proto.graph.input), specs(proto.graph.output), (Axis("batch", 1, 4, 8),))
    runtime = backend("tensorrt")
    file = runtime.build(tmp_path / "model.onnx", tmp_path, signature, Compilation(recipe))
    with runtime.open(tmp_path / file, signature, recipe) as session:
        answers = session.run(feeds)
    for output, exact, rounded in zip(proto.graph.output, floats, integers, strict=True):
        loss = compare(rounded, exact).max_scaled
        assert compare(answers[output.name], rounded).max_scaled < loss / 2, output.name


def test_cuda_graphs_are_measured_beside(engine, tmp_path):
    path = shutil.copytree(engine.path, tmp_path / "copy")
    manifest = bench_bundle(path, replace(QUICK, cuda_graph=True))
    benchmark = manifest.benchmarks["model"]
    for precision in ("fp32", "fp16"):
        assert len(benchmark.modes_of(f"model/tensorrt/{precision}")) == 2
    assert not benchmark.failures
