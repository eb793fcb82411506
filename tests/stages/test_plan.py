"""Which variants are made: of what is named, what this machine runs, and what there is to make them from."""

import importlib.util
from dataclasses import replace

import pytest

from torchlift.backends import BACKENDS, backend
from torchlift.errors import BackendUnavailableError, InputError
from torchlift.machine import Gpu, this_machine
from torchlift.stages import BuildOptions, Materials, plan

BOTH = ("onnxruntime", "openvino")
EVERYTHING = Materials(data=True, samples=True)


def recipes(materials=None, *, backends=("onnxruntime",), precisions=()):
    """What is planned, by backend."""
    found = {}
    for name, recipe in plan(BuildOptions(backends, precisions), materials):
        found.setdefault(name, set()).add(recipe)
    return found if len(backends) > 1 else found[backends[0]]


@pytest.fixture
def with_bf16(monkeypatch):
    monkeypatch.setattr(
        "torchlift.backends.openvino.this_machine", lambda: replace(this_machine(), instructions=("avx512_bf16",))
    )


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr("torchlift.backends.openvino.this_machine", lambda: replace(this_machine(), instructions=()))


def test_without_names_and_data_what_needs_no_score_is_planned_for_every_available_backend():
    expected = [
        (name, recipe)
        for name in BACKENDS
        if backend(name).available().ok and not backend(name).asked_for
        for recipe in backend(name).recipes
        if backend(name).supports(recipe).ok and recipe in ("fp32", "bf16")
    ]
    assert plan(BuildOptions()) == expected
    assert {("onnxruntime", "fp32"), ("openvino", "fp32")} <= {*expected}
    assert "onnxruntime-cuda" not in {name for name, _ in expected}, "there is no GPU build here"


def test_a_backend_that_needs_more_on_the_target_is_planned_only_where_it_is_named():
    assert backend("pytorch").available().ok
    assert "pytorch" not in {name for name, _ in plan(BuildOptions(), EVERYTHING)}
    assert "pytorch" not in {name for name, _ in plan(BuildOptions(precisions=("fp32",)))}
    found = plan(BuildOptions(("onnxruntime", "pytorch"), ("fp32",)))
    assert found == [("onnxruntime", "fp32"), ("pytorch", "fp32")]


@pytest.mark.parametrize(("data", "made"), [(False, {"fp32", "bf16"}), (True, {"fp32", "bf16", "fp16"})])
def test_what_a_gpu_runs_of_a_program_is_planned_by_the_same_rules(monkeypatch, data, made):
    monkeypatch.setattr("torchlift.backends.pytorch.gpu_of", lambda options=None: Gpu("NVIDIA H200", "9.0", 1, "580"))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found("json" if name == "triton" else name))
    assert recipes(Materials(data=data), backends=("pytorch",)) == made
    assert recipes(backends=("pytorch",), precisions=("fp16",)) == {"fp16"}


def test_named_backends_and_precisions_limit_the_plan():
    assert plan(BuildOptions(("openvino",), ("fp32",))) == [("openvino", "fp32")]
    assert {name for name, _ in plan(BuildOptions(("openvino",)))} == {"openvino"}
    assert {precision for _, precision in plan(BuildOptions(precisions=("fp32",)))} == {"fp32"}


def test_a_precision_that_the_processor_lacks_is_left_out_unless_it_is_named(without_bf16):
    assert ("openvino", "bf16") not in plan(BuildOptions())
    with pytest.raises(BackendUnavailableError, match=r"no backend here runs bf16: .* has no bf16 instructions"):
        plan(BuildOptions(precisions=("bf16",)))


def test_an_unknown_backend_is_refused_with_the_nearest():
    with pytest.raises(BackendUnavailableError, match="there is no backend 'openvin'") as caught:
        plan(BuildOptions(("openvin",)))
    assert "Did you mean openvino?" in caught.value.remedy


def test_a_backend_that_is_not_available_is_refused_where_it_is_named():
    assert not backend("onnxruntime-cuda").available().ok
    with pytest.raises(BackendUnavailableError, match="onnxruntime-cuda cannot be used: onnxruntime-gpu") as caught:
        plan(BuildOptions(("onnxruntime", "onnxruntime-cuda")))
    assert "pip install onnxruntime-gpu" in caught.value.remedy


def test_a_named_precision_that_no_chosen_backend_runs_is_refused():
    with pytest.raises(BackendUnavailableError, match="no backend here runs bf16: onnxruntime has no bf16") as caught:
        plan(BuildOptions(("onnxruntime",), ("fp32", "bf16")))
    assert "torchlift doctor" in caught.value.remedy


def test_with_data_to_score_on_int8_is_planned_as_far_as_it_can_be_made(without_bf16):
    assert recipes(Materials(data=True), backends=BOTH) == {
        "onnxruntime": {"fp32", "int8-dynamic"},
        "openvino": {"fp32"},
    }
    assert recipes(EVERYTHING, backends=BOTH) == {
        "onnxruntime": {"fp32", "int8", "int8-dynamic"},
        "openvino": {"fp32", "int8", "int8-nncf"},
    }


def test_what_leaves_the_rest_in_bf16_is_planned_where_the_processor_has_it(with_bf16):
    assert recipes(EVERYTHING, backends=("openvino",)) == {
        "fp32",
        "bf16",
        "int8",
        "int8-bf16",
        "int8-nncf",
        "int8-nncf-bf16",
    }
    assert recipes(backends=("openvino",)) == {"fp32", "bf16"}


def test_samples_without_data_to_score_on_make_nothing_lossy_that_is_not_named():
    assert recipes(Materials(samples=True)) == {"fp32"}
    assert recipes(Materials(samples=True), precisions=("int8",)) == {"int8", "int8-dynamic"}


def test_what_gains_no_speed_is_made_only_where_it_is_named():
    assert backend("onnxruntime").recipe("fp16").asked_for
    assert "fp16" not in recipes(EVERYTHING)
    assert recipes(EVERYTHING, precisions=("fp16",)) == {"fp16"}
    assert recipes(precisions=("fp16", "fp32")) == {"fp16", "fp32"}, "FP16 needs no samples"


def test_a_recipe_can_be_named_alone():
    assert recipes(EVERYTHING, precisions=("int8-dynamic",)) == {"int8-dynamic"}
    assert recipes(EVERYTHING, precisions=("int8",)) == {"int8", "int8-dynamic"}


def test_a_network_that_was_trained_for_int8_needs_no_samples(with_bf16):
    learnt = Materials(data=True, learnt=True)
    assert recipes(learnt, backends=BOTH) == {
        "onnxruntime": {"fp32", "int8", "int8-dynamic"},
        "openvino": {"fp32", "bf16", "int8", "int8-bf16"},
    }
    assert recipes(Materials(learnt=True), precisions=("int8",)) == {"int8", "int8-dynamic"}


@pytest.mark.parametrize(
    ("materials", "made"),
    [
        (Materials(learnt=True), {"onnxruntime": {"int8", "int8-dynamic"}, "openvino": {"int8"}}),
        (Materials(graphs=frozenset({"int8-s8s8"})), {"onnxruntime": {"int8-dynamic"}, "openvino": {"int8"}}),
    ],
    ids=["learnt", "graphs"],
)
def test_a_precision_that_is_named_is_made_in_the_forms_that_need_no_samples(without_bf16, materials, made):
    assert recipes(materials, backends=BOTH, precisions=("int8",)) == made


def test_graphs_that_were_calibrated_before_serve_their_backend_alone(without_bf16):
    found = recipes(Materials(data=True, graphs=frozenset({"int8-u8s8"})), backends=BOTH)
    assert found == {"onnxruntime": {"fp32", "int8", "int8-dynamic"}, "openvino": {"fp32"}}


@pytest.mark.parametrize("materials", [None, Materials(data=True), Materials(graphs=frozenset({"int8-s8s8"}))])
def test_int8_that_is_named_needs_samples(materials):
    with pytest.raises(InputError) as caught:
        recipes(materials, precisions=("fp32", "int8"))
    assert caught.value.message == "int8 needs samples to calibrate on, and none are given"
    assert "`calibration=`" in caught.value.remedy
    assert "int8-dynamic" in caught.value.remedy
    assert recipes(materials, precisions=("fp32", "int8-dynamic")) == {"fp32", "int8-dynamic"}


def test_a_backend_that_runs_none_of_the_named_precisions_is_refused():
    with pytest.raises(BackendUnavailableError) as caught:
        plan(BuildOptions(BOTH, ("int8-dynamic",)))
    assert caught.value.message == "openvino runs none of int8-dynamic here"
    assert "fp32, bf16, int8" in caught.value.remedy


def test_a_recipe_that_no_backend_has_is_refused():
    with pytest.raises(BackendUnavailableError, match="no backend here runs int8-static: onnxruntime has no"):
        plan(BuildOptions(("onnxruntime",), ("int8-static",)))
