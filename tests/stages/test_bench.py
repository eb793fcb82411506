"""What is measured, at which sizes, and what is kept of an earlier run."""

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import staged
import tiny
from staged import ORT, OV, QUICK, Recorder, component_of, entrant, graphed

from torchlift.backends import SessionOptions, base
from torchlift.backends.onnxruntime import OnnxRuntimeCpu
from torchlift.bundle import Bundle
from torchlift.errors import BackendUnavailableError, InputError
from torchlift.evidence import Entrant, NotMeasured, Scaling
from torchlift.jobs import bench_bundle
from torchlift.machine import Gpu, RunOn
from torchlift.manifest import Variant
from torchlift.prove.goldens import cut, load_goldens
from torchlift.signature import Axis, Signature, TensorSpec
from torchlift.stages import BenchOptions, bench, bench_component, contenders_of, workloads
from torchlift.timing.scaling import measure_scaling

H200 = Gpu("NVIDIA H200", "9.0", 150_754_820_096, "580.159.04")
ENGINE = "model/tensorrt-fp16/model.engine"
ON_GPU = Variant("model", "tensorrt", "fp16", "key", ENGINE, (ENGINE,), form="fp16")


def replayed(proof):
    """A proof in which CUDA graphs were replayed."""
    return replace(proof, checks=(*proof.checks, replace(proof.checks[0], replayed=True)))


@pytest.mark.parametrize(("batch", "corner"), [(1, "min"), (2, "opt"), (4, "opt"), (5, "max"), (8, "max")])
def test_what_is_measured_is_the_golden_of_that_size_or_the_next_larger_one_cut(bundle, batch, corner):
    (found,) = workloads(bundle, component_of(bundle), BenchOptions(batches=(batch,)))
    assert found.sizes == {"batch": batch}
    golden = load_goldens(bundle, component_of(bundle))[corner].inputs["x"]
    np.testing.assert_array_equal(found.feeds["x"], golden[:batch])


def test_without_sizes_the_least_batch_and_the_optimum_are_measured(bundle):
    assert [w.sizes["batch"] for w in workloads(bundle, component_of(bundle), BenchOptions())] == [1, 4]


def two_axes(bundle):
    """The tiny component as if its width could vary, too."""
    axes = (Axis("batch", 1, 4, 8), Axis("width", 4, 16, tiny.WIDTH))
    shaped = Signature((TensorSpec("x", "float32", ("batch", "width")),), tiny.SIGNATURE.outputs, axes)
    whole = {golden.name: golden for golden in tiny.goldens()}
    narrow = [replace(g, inputs=cut(shaped, g.inputs, shaped.sizes(corner))) for corner, g in whole.items()]
    tiny.put_component(bundle, tiny.model(), narrow, shaped, 1, "of two axes")
    return component_of(bundle)


def test_other_axes_are_at_their_optimum_or_as_asked(bundle):
    component = two_axes(bundle)
    assert workloads(bundle, component, BenchOptions((2,)))[0].feeds["x"].shape == (2, 16)
    asked = workloads(bundle, component, BenchOptions((2,), {"width": 5, "another": 3}))[0]
    assert (asked.sizes, asked.feeds["x"].shape) == ({"batch": 2, "width": 5}, (2, 5))


@pytest.mark.parametrize(
    ("options", "said", "wider"),
    [
        (BenchOptions((1, 9)), "batch 9 is outside 1..8", "`axes=batch=1..4..9`"),
        (BenchOptions((0,)), "batch 0 is outside 1..8", "`axes=batch=0..4..8`"),
        (BenchOptions(sizes={"width": 64}), "width 64 is outside 4..32", "`axes=width=4..16..64`"),
        (BenchOptions(sizes={"width": 2}), "width 2 is outside 4..32", "`axes=width=2..16..32`"),
    ],
)
def test_sizes_outside_the_range_are_refused(bundle, options, said, wider):
    with pytest.raises(InputError) as caught:
        workloads(bundle, two_axes(bundle), options)
    assert caught.value.message == said
    assert wider in caught.value.remedy


@pytest.fixture
def measurable(proven):
    """The variants that any machine runs."""
    proven.commit(
        replace(proven.manifest, variants=tuple(v for v in proven.manifest.variants if v.precision == "fp32"))
    )
    return proven


def test_a_benchmark_is_kept_until_something_changes(measurable):
    component = component_of(measurable)
    first = bench_component(measurable, component, options=QUICK)
    assert [(x.contender, x.batch) for x in first.latencies] == [(entrant(n), b) for b in (1, 4) for n in (ORT, OV)]
    assert (first.baseline, first.failures) == (entrant(ORT), ())
    files = {f for v in measurable.manifest.variants for f in v.files}
    assert first.files == measurable.manifest.hashes(tuple(files))
    recorder = Recorder()
    assert bench_component(measurable, component, options=QUICK, progress=recorder) == first
    assert recorder.titles == [], "nothing was measured"
    assert bench_component(measurable, component, options=replace(QUICK, batches=(1,))).key != first.key


def test_what_was_built_for_another_release_is_measured_again(measurable):
    ort = measurable.manifest.variant(ORT)
    measurable.commit(replace(measurable.manifest, variants=(ort,)))
    options = replace(QUICK, batches=(1,))
    first = bench_component(measurable, component_of(measurable), options=options)
    measurable.commit(measurable.manifest.with_variant(replace(ort, key="of another release, with the same files")))
    assert bench_component(measurable, component_of(measurable), options=options).key != first.key


# GPUs, of which ONNX Runtime here is told, but runs on the processor all the same


@pytest.fixture
def gpu(monkeypatch):
    """As if a GPU were here."""
    monkeypatch.setattr(base, "gpus", lambda: (H200,))


@pytest.fixture
def opened(monkeypatch):
    """What sessions would be opened with."""
    told = []
    monkeypatch.setattr("torchlift.backends.opening.open_file", lambda *arguments: told.append(arguments))
    return told


@pytest.fixture
def bundle(bundle):
    """The tiny bundle with a file in the place of an engine."""
    with bundle.adding(str(Path(ENGINE).parent)) as added:
        (added.path / Path(ENGINE).name).write_bytes(b"an engine")
    assert [*added.files] == [ENGINE]
    bundle.commit(bundle.manifest.with_variant(ON_GPU), added.files)
    return bundle


@pytest.fixture
def engine(proven):
    """What runs on a GPU, verified replaying CUDA graphs too."""
    return replace(ON_GPU, verification=replayed(proven.manifest.variant(ORT).verification))


@pytest.mark.parametrize(("both", "modes"), [(False, 1), (True, 2)])
def test_what_replays_graphs_is_measured_both_ways_where_that_is_asked_for(engine, bundle, gpu, opened, both, modes):
    asked = RunOn(threads=3, device=1)
    found = contenders_of(bundle, engine, asked, graphed=both)
    plain = Entrant("model/tensorrt/fp16", "fp16")
    assert [c.entrant for c in found] == [plain, replace(plain, cuda_graph=True)][:modes]
    for contender in found:
        contender.open()
        contender.open_on(5)
    expected = [SessionOptions(on, mode) for mode in (False, True)[:modes] for on in (asked, RunOn(3, 5))]
    assert [told[-1] for told in opened] == expected
    model = (bundle.path / ON_GPU.model).absolute()
    assert {told[:-1] for told in opened} == {("tensorrt", model, tiny.SIGNATURE, "fp16")}


def test_what_was_not_verified_replaying_graphs_is_measured_without_and_noted(engine, proven, bundle, gpu):
    plain = replace(engine, verification=proven.manifest.variant(ORT).verification)
    for variant in (plain, ON_GPU):
        recorder = Recorder()
        (found,) = contenders_of(bundle, variant, graphed=True, progress=recorder)
        assert found.entrant == Entrant(ON_GPU.name, "fp16")
        assert recorder.notes == [
            "model/tensorrt/fp16 is not measured with CUDA graphs: its verification replayed none"
        ]
        contenders_of(bundle, variant, progress=recorder)
        assert len(recorder.notes) == 1, "nobody asked for them"


def test_openers_can_go_to_another_process(engine, bundle, gpu):
    for contender in contenders_of(bundle, engine, graphed=True):
        for opener in (contender.open, contender.open_on):
            assert pickle.loads(pickle.dumps(opener)).args[-1] == opener.args[-1]


@pytest.mark.parametrize("name", [ORT, OV])
def test_what_runs_on_no_gpu_has_one_mode_and_no_devices(built, gpu, name):
    (found,) = contenders_of(built, built.manifest.variant(name), graphed=True)
    assert (found.entrant, found.open_on) == (entrant(name), None)


def test_without_a_gpu_nothing_is_measured_on_one(engine, bundle, monkeypatch):
    monkeypatch.setattr(base, "gpus", tuple)
    (found,) = contenders_of(bundle, engine, graphed=True)
    assert (found.entrant, found.open_on) == (Entrant(ON_GPU.name, "fp16"), None)


@pytest.fixture
def replaying(measurable, gpu, monkeypatch):
    """The variants that any machine runs, of which ONNX Runtime's claims to replay graphs."""
    monkeypatch.setattr(OnnxRuntimeCpu, "replays", True)
    monkeypatch.setattr(OnnxRuntimeCpu, "for_gpus", True)
    ort = measurable.manifest.variant(ORT)
    measurable.commit(measurable.manifest.with_variant(replace(ort, verification=replayed(ort.verification))))
    return measurable


def test_both_modes_are_measured_side_by_side(replaying):
    options = replace(QUICK, batches=(1,), cuda_graph=True)
    found = bench_component(replaying, component_of(replaying), options=options)
    plain, replaying, other = entrant(ORT), graphed(ORT), entrant(OV)
    assert [x.contender for x in found.latencies] == [plain, replaying, other]
    assert {x.contender for x in found.runtimes} == {plain, replaying, other}
    assert (found.baseline, found.failures) == (plain, ())
    assert found.modes_of(ORT) == (plain, replaying)
    assert found.modes_of(OV) == (other,)


def test_graphs_that_were_not_verified_are_not_measured(replaying, proven_once, unmeasured):
    replaying.commit(replaying.manifest.with_variant(proven_once.manifest.variant(ORT)))
    recorder = Recorder()
    options = replace(QUICK, batches=(1,), cuda_graph=True)
    found = bench_component(replaying, component_of(replaying), options=options, progress=recorder)
    assert [x.contender.name for x in found.latencies] == [ORT, OV]
    assert recorder.notes == [f"{ORT} is not measured with CUDA graphs: its verification replayed none"]


def test_measuring_both_modes_is_another_benchmark(replaying, unmeasured):
    both = bench_component(replaying, component_of(replaying), options=replace(QUICK, cuda_graph=True))
    plain = bench_component(replaying, component_of(replaying), options=QUICK)
    assert (both.modes_of(ORT), plain.modes_of(ORT)) == ((entrant(ORT), graphed(ORT)), (entrant(ORT),))
    assert plain.key != both.key


def test_throughput_is_measured_on_several_devices_where_they_are_named(replaying, unmeasured, monkeypatch):
    monkeypatch.setattr(bench, "measure_scaling", partial(measure_scaling, seconds=0.01))
    options = replace(QUICK, batches=(2,), more_devices=(1,))
    found = bench_component(replaying, component_of(replaying), options=options)
    throughputs = found.scaling.throughputs
    assert [(x.contender.name, x.devices, x.sizes) for x in throughputs] == [(ORT, n, {"batch": 2}) for n in (1, 2)]
    assert all(x.samples > 0 for x in throughputs)
    assert [x.contender.name for x in found.latencies] == [ORT, OV]


def test_what_failed_on_several_devices_is_measured_again(replaying, unmeasured, monkeypatch):
    options, told = replace(QUICK, batches=(1,), more_devices=(1,)), []

    def fails_first(*_):
        told.append(True)
        return Scaling(failures=() if len(told) > 1 else (NotMeasured(entrant(ORT), "the GPU is lost"),))

    monkeypatch.setattr(bench, "measure_scaling", fails_first)
    for _ in range(3):
        found = bench_component(replaying, component_of(replaying), options=options)
    assert (len(told), found.scaling.failures) == (2, ())


def test_one_device_is_no_scaling(replaying, unmeasured, monkeypatch):
    monkeypatch.setattr(bench, "measure_scaling", lambda *_: pytest.fail("one device"))
    found = bench_component(replaying, component_of(replaying), options=replace(QUICK, batches=(1,)))
    assert found.scaling.throughputs == ()


def test_latency_is_measured_on_the_first_device(measurable, monkeypatch, unmeasured):
    told, made = [], contenders_of

    def contenders(bundle, variant, on, **modes):
        told.append(on.device)
        return made(bundle, variant, on, **modes)

    monkeypatch.setattr(bench, "contenders_of", contenders)
    monkeypatch.setattr(
        bench, "measure_scaling", lambda contenders, work, devices, progress: told.append(devices) or Scaling()
    )
    bench_component(measurable, component_of(measurable), options=replace(QUICK, more_devices=(1,)), on=RunOn(device=3))
    assert told == [3, 3, (3, 1)]


# what a run that fails leaves


@pytest.fixture
def two(measurable):
    """Two components, measured and chosen; the second has an axis that the first has not."""
    whole = measurable.manifest
    component = whole.component("model")
    wider = replace(component.signature, axes=(*component.signature.axes, Axis("length", 2, 4, 8)))
    components = (
        replace(component, name="image"),
        replace(component, name="text", signature=replace(component.signature, axes=wider.axes)),
    )
    variants = tuple(replace(v, component=c.name) for c in components for v in whole.variants)
    measurable.commit(replace(whole, components=components, variants=variants))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchlift.stages.bench.measure_latency", staged.made_up)
        bench_bundle(measurable.path, QUICK)
    return Bundle.open(measurable.path)


def failing(*components):
    """In place of measuring: the variants of these components fail, those of others take made up times."""

    def measure(contenders, workloads, **how):
        found = staged.made_up(contenders, workloads, **how)
        failed = [c.entrant for c in contenders if c.entrant.name.startswith(components)]
        kept = tuple(x for x in found.latencies if x.contender not in failed)
        why = tuple(NotMeasured(each, "it was out of patience") for each in failed)
        return replace(found, latencies=kept, failures=why)

    return measure


@pytest.mark.parametrize("components", [("image",), ("text",), ("image", "text")])
def test_a_run_that_fails_leaves_the_measurements_and_the_choices_of_before_and_says_why(two, monkeypatch, components):
    assert two.manifest.choices.keys() == {"image", "text"}
    before = tiny.contents(two.path)
    monkeypatch.setattr("torchlift.stages.bench.measure_latency", failing(*components))
    with pytest.raises(BackendUnavailableError, match="it was out of patience") as caught:
        bench_bundle(two.path, replace(QUICK, batches=(2,)))
    assert f"{components[0]}/onnxruntime/fp32" in caught.value.message
    assert tiny.contents(two.path) == before


def test_a_size_that_one_component_refuses_is_refused_before_anything_is_measured(two, monkeypatch):
    before = tiny.contents(two.path)
    monkeypatch.setattr("torchlift.stages.bench.measure_latency", lambda *a, **k: pytest.fail("it was measured"))
    with pytest.raises(InputError, match=r"length 1 is outside 2\.\.8"):
        bench_bundle(two.path, replace(QUICK, sizes={"length": 1}))
    assert tiny.contents(two.path) == before
