"""The zoo of benchmarks/zoo.py: its cases, what it finds of a right and of a wrong answer, and its table."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from networks import load
from zoo_case import Axis, Case, f32
from zoo_check import first_difference, flattened, unsound
from zoo_table import table
from zoo_tools import plain, torchlift
from zoo_worker import SCRIPT, Result, run


@pytest.fixture(scope="module")
def cases():
    return load().cases


def test_there_are_two_hundred_networks_of_many_groups(cases):
    assert len(cases) >= 200
    assert len({case.group for case in cases.values()}) >= 15


def test_the_range_of_an_axis_is_on_its_steps(cases):
    for case in cases.values():
        for axis in case.axes:
            assert axis.min <= axis.opt <= axis.max, case.name
            assert not any(size % axis.step for size in (axis.min, axis.opt, axis.max)), case.name


def test_drawn_values_are_within_the_declared_bounds(cases):
    for case in cases.values():
        feeds = case.draw(case.fresh()[-1], 0)
        assert list(feeds) == [spec.name for spec in case.inputs], case.name
        for spec in case.inputs:
            assert spec.bounds or "int" not in spec.dtype, case.name
            low, high = spec.bounds or (-np.inf, np.inf)
            values = feeds[spec.name]
            assert low <= values.min(), case.name
            assert values.max() < high or values.dtype.kind == "f", case.name
            assert values.dtype == spec.dtype, case.name


def test_fresh_sizes_hold_both_ends_and_heed_steps(cases):
    fresh = cases["dinov2"].fresh()
    height = next(axis for axis in cases["dinov2"].axes if axis.name == "height")
    found = [sizes["height"] for sizes in fresh]
    assert (found[0], found[-1]) == (height.min, height.max)
    assert not any(size % height.step for size in found)


@pytest.mark.parametrize("name", ["dict-output", "gru-cell", "topk-sorted", "bert"])
def test_a_case_of_the_zoo_is_sound(cases, name):
    assert unsound(cases[name]) == ""


def test_a_network_that_answers_otherwise_each_time_is_unsound():
    assert "called twice" in unsound(_case(lambda: _Applies(lambda x: x + torch.randn_like(x))))


def test_a_network_without_signal_is_unsound():
    assert "no signal" in unsound(_case(lambda: _Applies(lambda x: x * 0)))


def test_answers_of_another_value_shape_or_dtype_are_found():
    case = _case(lambda: _Applies(lambda x: x * 2))
    assert first_difference(case, lambda feeds: [feeds["x"] * 2]) == ""
    assert "off by" in first_difference(case, lambda feeds: [feeds["x"] * 2.01])
    assert "shape" in first_difference(case, lambda feeds: [feeds["x"][:, :2] * 2])
    assert "float64" in first_difference(case, lambda feeds: [feeds["x"].astype(np.float64) * 2])
    assert "outputs" in first_difference(case, lambda feeds: [])
    assert "does not run" in first_difference(case, lambda feeds: [feeds["y"]])


def test_an_answer_is_flattened_without_none():
    x = torch.ones(2)
    assert [a.sum() for a in flattened({"a": x, "b": (None, [x * 2])})] == [2, 4]


def test_a_plain_export_is_right_or_refused_with_its_reason(tmp_path):
    assert plain(_case(lambda: _Applies(lambda x: x * x.shape[0])), tmp_path).status == "right"
    refused = plain(_case(lambda: _Applies(lambda x: x * 2 if x.sum() > 0 else x)), tmp_path)
    assert refused.status == "refused"
    assert "data-dependent" in refused.reason


def test_torchlift_takes_a_case_as_it_is(cases, tmp_path):
    assert torchlift(cases["newton-steps"], tmp_path).status == "right"


def test_cases_are_run_in_processes_and_kept_as_lines(tmp_path):
    out = tmp_path / "zoo.jsonl"
    command = [sys.executable, SCRIPT, "--tool", "eager", "--only", "fields/sine*", "--out", out]
    subprocess.run(command, check=True, capture_output=True)
    (line,) = map(json.loads, out.read_text().splitlines())
    assert (line["case"], line["tool"], line["status"]) == ("sine-network", "eager", "right")


def test_a_case_that_fails_or_hangs_costs_no_other():
    asked = [("sine-network", "no such tool"), ("sine-network", "eager")]
    found = [answer["status"] for _, answer in run(asked, jobs=1, deadline=100)]
    assert found == ["crashed", "right"]
    (late,) = [answer for _, answer in run(asked[1:], jobs=1, deadline=0)]
    assert late["status"] == "crashed"


def test_the_table_counts_by_group_and_names_what_a_plain_export_does_better():
    def result(case, tool, status, refused=""):
        return Result(case, "rnn", tool, status, "" if status == "right" else "why", 1.0, refused)

    results = [
        result("a", "torchlift", "right"),
        result("a", "plain", "wrong"),
        result("b", "torchlift", "refused"),
        result("b", "plain", "right"),
        result("c", "torchlift", "refused", "noise"),
    ]
    lines = table(results).splitlines()
    assert lines[2] == "| rnn | 3 | 1 | 1 | 1 |  |  |  |"
    assert "- right by a plain export, not by torchlift: 1: b" in lines
    assert "| b | rnn | refused | why |" in lines


class _Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _case(build):
    return Case("tiny", "test", build, (f32("x", "batch", 4),), (Axis("batch", 1, 3, 7),))
