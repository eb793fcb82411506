"""What of the machine a job runs on: every session of every stage opens with what was asked for, and nothing else."""

from dataclasses import replace

import pytest

from torchlift.backends.onnxruntime import OnnxRuntimeCpu
from torchlift.evidence import Gate
from torchlift.jobs import bisect_bundle, build_bundle, report_bundle, score_bundle, verify_bundle
from torchlift.machine import RunOn

ASKED = RunOn(threads=1, device=3)

pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.fixture
def opened(monkeypatch):
    """What sessions are opened on, the way that they are opened -> all the answers."""
    found = {"files": [], "graphs": []}
    file, graph = OnnxRuntimeCpu.open, OnnxRuntimeCpu.open_graph

    def open_file(self, model, signature, recipe="fp32", options=None):
        found["files"].append(options.on if options else None)
        return file(self, model, signature, recipe, options)

    def open_graph(self, content, on=None, **more):
        found["graphs"].append(on)
        return graph(self, content, on, **more)

    monkeypatch.setattr(OnnxRuntimeCpu, "open", open_file)
    monkeypatch.setattr(OnnxRuntimeCpu, "open_graph", open_graph)
    return found


def test_a_build_converts_verifies_scores_and_mends_where_it_was_asked_to(colours, job, opened):
    options = replace(job("fp32", "int8", gate=Gate({"top1": 2.0}), evaluations=8), on=ASKED)
    manifest = build_bundle(colours.path, options)
    assert manifest.graph("model", "int8-u8s8").conversion.repair is not None
    assert manifest.scoring.scores
    for way, places in opened.items():
        assert {*places} == {ASKED}, way


def test_what_is_scored_verified_and_searched_later_is_too(colours, job, opened):
    build_bundle(colours.path, job("fp32", "int8", evaluations=0))
    options = replace(job("fp32", "int8", evaluations=4), on=ASKED)
    later = {
        "score": lambda: score_bundle(colours.path, options),
        "report": lambda: report_bundle(colours.path, options),
        "verify": lambda: verify_bundle(colours.path, on=ASKED),
        "bisect": lambda: bisect_bundle(colours.path, "model/onnxruntime/int8", options),
    }
    for name, run in later.items():
        opened["files"].clear()
        run()
        assert {*opened["files"]} == {ASKED}, name


def test_fp16_that_is_emulated_is_checked_there_too(colours, job, opened):
    build_bundle(colours.path, replace(job("fp32", "fp16", evaluations=0), on=ASKED))
    assert {*opened["graphs"]} == {ASKED}
