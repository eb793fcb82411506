"""The tables of benchmarks/gpu_tables.py, of results that are made here."""

import sys
from dataclasses import replace
from pathlib import Path

import msgspec

from torchlift.evidence import Benchmark, Conditions, Entrant, Interval, Latency
from torchlift.machine import this_machine

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gpu_tables

EAGER = Entrant("pytorch", "fp16", compiled=False)
PLAIN = replace(EAGER, precision="fp32")
COMPILED = Entrant("pytorch", "fp16", compiled=True, cuda_graph=True)


def engine(name, *, cuda_graph=False):
    """A variant of ours."""
    return Entrant(name, name.rpartition("/")[2].partition("-")[0], cuda_graph=cuda_graph)


def latency(contender, median, batch=1, baseline=EAGER):
    """Rounds without noise: a mean is a median, and all intervals are points."""
    speed = None if contender == baseline or baseline is None else Interval(8 / median, 8 / median, 8 / median)
    spread = dict.fromkeys(("mean", "min", "max", "median", "p95", "p99"), median)
    return Latency(
        contender=contender, sizes={"batch": batch}, runs=6, sd=0.0, throughput=1e3 / median, speedup=speed, **spread
    )


def result(size, component, rows, baseline=EAGER, failed=None, conditions=()):
    benchmark = Benchmark(
        machine=this_machine(),
        at="2026-01-01T00:00:00+00:00",
        threads=2,
        rounds=6,
        baseline=baseline,
        latencies=tuple(rows),
        conditions=tuple(conditions),
    )
    content = {"size": size, "components": {component: benchmark}, "failed": failed or {}, "facts": {}}
    return msgspec.convert(msgspec.to_builtins(content), gpu_tables.Result)


TIMES = {
    EAGER: 8.0,
    COMPILED: 2.0,
    engine("image/tensorrt/fp16", cuda_graph=True): 1.0,
    engine("image/pytorch/fp16"): 1.6,
}


def test_a_size_stands_beside_what_was_published_with_the_fastest_that_is_proven(capsys):
    rows = [latency(name, time, batch) for batch in (1, 64) for name, time in TIMES.items()]
    gpu_tables.summarise([result("ViT-B-16", "image", rows)])
    said = capsys.readouterr().out
    assert "Chinese-CLIP, batch 1, ms" in said
    assert (
        "| ViT-B-16 image | 11.12 / 4.92 / 3.58 | 3.11 | 8.000 / 2.000 / 1.000 | tensorrt/fp16 + CUDA graph "
        "| 8.00 [8.00, 8.00] | 2.00 |\n"
    ) in said
    assert "Chinese-CLIP, batch 64, ms" in said
    gpu_tables.summarise([result("ViT-B-16", "image", rows, failed={"image/tensorrt/fp16": "out of tolerance"})])
    assert "| 8.000 / 2.000 / 1.600 | pytorch/fp16 | 5.00 [5.00, 5.00] | 1.25 |" in capsys.readouterr().out


def test_mobilevit_stands_beside_its_own_and_what_is_refused_says_so(capsys):
    names = {PLAIN: 8.0, EAGER: 7.0, engine("model/tensorrt/fp16"): 4.0, engine("model/tensorrt/int8"): 2.0}
    names[engine("model/tensorrt/fp32", cuda_graph=True)] = 4.0
    names[engine("model/tensorrt/int8", cuda_graph=True)] = 1.6
    rows = [latency(name, time, batch, PLAIN) for batch in (1, 64) for name, time in names.items()]
    failed = {"model/tensorrt/int8": "measured, but out of tolerance"}
    gpu_tables.summarise([result("mobilevit-xxs", "model", rows, PLAIN, failed)])
    said = capsys.readouterr().out.splitlines()
    assert "| fp16 | 1 | 2.27 | 2.00 [2.00, 2.00] |  | 1.76 |  |" in said
    assert "| int8 | 1 | 1.65 | 4.00 [4.00, 4.00] (refused) | 5.00 [5.00, 5.00] (refused) | 1.28 | 2.50 |" in said
    assert not any(line.startswith(("Chinese-CLIP", "| fp16 | 64")) for line in said)


def test_a_table_has_ratios_in_bold_what_is_best_and_what_may_have_moved_the_times(capsys):
    conditions = [Conditions("NVIDIA H200", (1500, 1900, 1980), (40, 60), ("power limit",))]
    rows = [latency(name, time) for name, time in TIMES.items()]
    gpu_tables.print_tables(
        result("ViT-B-16", "image", rows, failed={"image/openvino/fp16": "no such thing"}, conditions=conditions)
    )
    said = capsys.readouterr().out
    assert "| contender | ms | with copies | times pytorch eager fp16 [95%] |" in said
    assert "| pytorch eager fp16 | 8.000 |  | 1 | 0.25 |  |  |" in said
    assert "| **image/tensorrt/fp16 + CUDA graph** | 1.000 |  | 8.00 [8.00, 8.00] | 2.00 |  |  |" in said
    assert "median 1900" in said
    assert "the times may have moved: the clock moved from 1500 to 1980 MHz, slowed down: power limit" in said
    assert "- image/openvino/fp16: no such thing" in said


def test_without_its_baseline_a_table_has_times_only(capsys):
    rows = [replace(latency(name, time), speedup=None) for name, time in TIMES.items() if name != EAGER]
    gpu_tables.print_tables(result("ViT-B-16", "image", rows, baseline=None))
    said = capsys.readouterr().out
    assert "| image/pytorch/fp16 | 1.600 |  |  |  |  |  |" in said
    assert "None" not in said
