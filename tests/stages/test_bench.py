"""What is measured, at which sizes, and what is kept of an earlier run."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from staged import ORT, OV, QUICK, Recorder, component_of

from torchlift.errors import InputError
from torchlift.measure.goldens import load_goldens
from torchlift.signature import Axis, Signature, TensorSpec
from torchlift.stages import BenchOptions, bench_component, workloads


def test_workloads_have_the_sizes_that_were_asked_for(bundle):
    found = workloads(bundle, component_of(bundle), BenchOptions(batches=(2, 8)))
    largest = load_goldens(bundle, component_of(bundle))["max"].inputs["x"]
    assert [w.sizes for w in found] == [{"batch": 2}, {"batch": 8}]
    for workload in found:
        np.testing.assert_array_equal(workload.feeds["x"], largest[: workload.sizes["batch"]])


def test_without_sizes_the_least_batch_and_the_optimum_are_measured(bundle):
    assert [w.sizes["batch"] for w in workloads(bundle, component_of(bundle), BenchOptions())] == [1, 4]


def two_axes(bundle):
    """The tiny component as if its width could vary, too."""
    axes = (Axis("batch", 1, 4, 8), Axis("width", 4, 16, tiny.WIDTH))
    shaped = Signature((TensorSpec("x", "float32", ("batch", "width")),), tiny.SIGNATURE.outputs, axes)
    return replace(component_of(bundle), signature=shaped)


def test_other_axes_are_at_their_optimum_or_as_asked(bundle):
    component = two_axes(bundle)
    assert workloads(bundle, component, BenchOptions((2,)))[0].feeds["x"].shape == (2, 16)
    asked = workloads(bundle, component, BenchOptions((2,), {"width": 5, "another": 3}))[0]
    assert (asked.sizes, asked.feeds["x"].shape) == ({"batch": 2, "width": 5}, (2, 5))


@pytest.mark.parametrize(
    ("options", "said", "wider"),
    [
        (BenchOptions((1, 9)), "batch 9 is outside 1..8", "--axis batch=1..4..9"),
        (BenchOptions((0,)), "batch 0 is outside 1..8", "--axis batch=0..4..8"),
        (BenchOptions(sizes={"width": 64}), "width 64 is outside 4..32", "--axis width=4..16..64"),
        (BenchOptions(sizes={"width": 2}), "width 2 is outside 4..32", "--axis width=2..16..32"),
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
    assert [(x.contender, x.batch) for x in first.latencies] == [(n, b) for b in (1, 4) for n in (ORT, OV)]
    assert (first.baseline, first.failures) == (ORT, {})
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
