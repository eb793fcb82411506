import re
from dataclasses import replace

import pytest
from rich.console import Console

from torchlift.backends import LayerTime
from torchlift.bundle import Bundle
from torchlift.cli.components import components_table
from torchlift.cli.costs import layers_table, scaling_table
from torchlift.cli.display import print_manifest
from torchlift.cli.proofs import verification_table
from torchlift.cli.tables import (
    manifest_tables,
    reference_lines,
    runtimes_table,
)
from torchlift.evidence import Choice, Conditions, Entrant, Failure, Gate, Interval, NotMeasured, Scaling, Throughput
from torchlift.messages import CUDA_GRAPH

EAGER = Entrant("pytorch", compiled=False)
PLAIN = Entrant("text/onnxruntime/fp32")
REPLAYING = replace(PLAIN, cuda_graph=True)


def shown(width, *renderables):
    """The lines that a console of ``width`` columns prints."""
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable)
    return capture.get().splitlines()


@pytest.fixture(scope="module")
def bundle(clip):
    return Bundle.open(clip.path)


WIDTHS = [80, 100, 120, 132, 160]


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off(bundle, width):
    tables = (components_table(bundle), *manifest_tables(bundle.manifest, width), runtimes_table(bundle.manifest))
    lines = shown(width, *tables, verification_table(bundle.manifest, width, verbose=True))
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


def headings(lines):
    """The words over the columns: those of the line that names the variant, and of the line above it."""
    (at, *_) = (number for number, line in enumerate(lines) if line.split()[:1] == ["variant"])
    return {*lines[at].split(), *lines[at - 1].split()}


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_shows_every_number(bundle, width):
    lines = shown(width, *manifest_tables(bundle.manifest, width))
    columns = ("variant", "precision", "size", "largest diff", "batch", "median ms", "p95", "p99", "per s", "speed-up")
    assert {word for column in columns for word in column.split()} <= headings(lines)
    for latency in bundle.manifest.benchmarks["text"].latencies:
        numbers = [f"{x:.3g}" for x in (latency.median, latency.p95, latency.p99)]
        assert any(" ".join(numbers) in " ".join(line.split()) for line in lines)


@pytest.mark.parametrize(("width", "interval"), [(80, False), (100, False), (119, False), (120, True), (160, True)])
def test_the_interval_of_a_speed_up_is_shown_where_there_is_room(bundle, width, interval):
    lines = shown(width, *manifest_tables(bundle.manifest, width))
    assert any(re.search(r"\d\.\d\d \[\d+\.\d\d, \d+\.\d\d\]", line) for line in lines) == interval
    assert ("with 95% interval" in " ".join(" ".join(lines).split())) == interval


def with_noise(bundle, batches=(1, 2, 4, 8)):
    """The manifest of the text tower with speed-ups that tell nothing at some batches."""
    benchmark = bundle.manifest.benchmarks["text"]
    noise = Interval(9.84, 0.0, 511985024973879.0)
    latencies = [
        replace(x, speedup=noise, noisy=True) if x.speedup and x.batch in batches else x for x in benchmark.latencies
    ]
    manifest = replace(bundle.manifest, components=(bundle.manifest.component("text"),))
    return replace(manifest, benchmarks={"text": replace(benchmark, latencies=tuple(latencies))})


@pytest.mark.parametrize(("width", "said"), [(80, "9.84?"), (119, "9.84?"), (120, "9.84 (too noisy to tell)")])
def test_a_speed_up_that_is_noise_says_so_and_what_to_do(bundle, width, said):
    lines = shown(width, *manifest_tables(with_noise(bundle), width))
    assert any(said in line for line in lines)
    assert "511985" not in " ".join(lines)
    assert "--rounds" in words(lines)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


def test_a_choice_by_noise_says_so_unless_size_decided(bundle):
    chosen = bundle.manifest.choices["text"]
    by_size = replace(chosen, batch=None, gate=Gate(objective="size"))
    for choice, noisy in ((chosen, True), (replace(chosen, batch=999), False), (by_size, False)):
        manifest = replace(with_noise(bundle), choices={"text": choice})
        lines = shown(160, *manifest_tables(manifest, 160))
        row = next(line for line in lines if " chosen" in line)
        assert ("noisy to tell)" in row.partition(" chosen")[2]) == noisy
    assert "noisy" not in words(shown(160, *manifest_tables(bundle.manifest, 160)))


@pytest.mark.parametrize("width", WIDTHS)
def test_verdicts_stand_beside_the_numbers_or_below(bundle, width):
    lines = shown(width, *manifest_tables(bundle.manifest, width))
    assert ("verdict" in headings(lines)) == (width >= 100)
    for choice in bundle.manifest.choices.values():
        _, backend, precision = choice.variant.split("/")
        below = f"{backend} {precision}: chosen"
        if width < 100:
            assert below in lines
        else:
            assert below not in lines
            assert any(line.split()[:1] == [backend] and line.rstrip().endswith("chosen") for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_tolerance_of_each_variant_is_shown(bundle, width):
    lines = shown(width, verification_table(bundle.manifest, width))
    (at,) = (number for number, line in enumerate(lines) if line.startswith("tolerance: "))
    said = " ".join(line.strip() for line in lines[at:])
    assert said.startswith(
        "tolerance: at most 0.0001 of scale, cosine at least 0.99999, at most 0 of whole numbers differ for "
    )
    assert all(variant.name in said for variant in bundle.manifest.variants)


def test_what_ran_is_shown(bundle):
    lines = shown(100, runtimes_table(bundle.manifest))
    row = next(line for line in lines if line.split()[:2] == ["text", "onnxruntime/fp32"])
    assert row.rstrip().endswith(bundle.manifest.benchmarks["text"].runtime_of(PLAIN))


def test_reference_lines_name_the_component_once(bundle):
    benchmark = bundle.manifest.benchmarks["image"]
    eager = replace(benchmark.latencies[0], contender=EAGER)
    lines = [*reference_lines("image", replace(benchmark, latencies=(eager, *benchmark.latencies)))]
    assert lines[0].startswith("[pytorch eager image inference speed (batch-size: 1):] mean=")
    assert any(line.startswith("[onnxruntime/fp32 image inference speed (batch-size: 1):] mean=") for line in lines)


def test_a_peer_that_failed_is_in_the_table(bundle):
    benchmark = bundle.manifest.benchmarks["text"]
    failed = replace(benchmark, baseline=None, failures=(NotMeasured(EAGER, "no clip.pt"),))
    manifest = replace(bundle.manifest, benchmarks={"text": failed})
    lines = shown(160, *manifest_tables(manifest, 160))
    row = next(line for line in lines if "pytorch eager" in line)
    assert "not measured: no clip.pt" in row
    assert not any("None" in line for line in lines)


LOG = "net: Exception from a.cpp:1:\nException from b.cpp:2:\nindex 58 is beyond the table\n"


def with_logs(bundle):
    """The manifest with a runtime's log at each place where one may be."""
    first, second, *_ = bundle.manifest.variants
    manifest = bundle.manifest.with_variant(replace(first, failure=LOG, files=(), verification=None))
    refused = replace(second.verification, checks=(), invariance=(), failures=(Failure(kind="error", detail=LOG),))
    manifest = manifest.with_variant(replace(second, verification=refused))
    benchmark = replace(manifest.benchmarks["text"], failures=(NotMeasured(EAGER, LOG),))
    return replace(manifest, choices={}, benchmarks={**manifest.benchmarks, "text": benchmark})


@pytest.mark.parametrize("width", WIDTHS)
def test_of_a_runtime_s_log_tables_show_the_line_that_tells(bundle, width):
    manifest = with_logs(bundle)
    for tables in ([*manifest_tables(manifest, width)], [verification_table(manifest, width)]):
        text = words(shown(width, *tables))
        assert "58" in text
        assert "Exception" not in text


def test_v_shows_the_whole_log(bundle, capsys):
    print_manifest(with_logs(bundle), verbose=True)
    text = capsys.readouterr().out
    assert text.count("Exception from b.cpp:2:") == 3, "not built, refused, not measured"


def test_a_speed_up_is_shown_only_over_something(bundle):
    benchmark = bundle.manifest.benchmarks["text"]
    latencies = tuple(replace(x, speedup=None) for x in benchmark.latencies)
    manifest = replace(bundle.manifest, benchmarks={"text": replace(benchmark, baseline=None, latencies=latencies)})
    rows = [line for line in shown(160, *manifest_tables(manifest, 160)) if line.startswith(" openvino")]
    assert rows
    assert all(" -  " in row for row in rows)


def test_a_variant_that_was_not_built_says_why(bundle):
    variant = replace(bundle.manifest.variants[0], failure="no kernel for [Foo]", files=(), verification=None)
    manifest = replace(bundle.manifest.with_variant(variant), choices={}, benchmarks={})
    (table, *_) = manifest_tables(manifest, 160)
    assert any("not built: no kernel for [Foo]" in line for line in shown(160, table))


# GPUs

ORT = "text/onnxruntime/fp32"
STEADY = Conditions("NVIDIA H200, driver 580.159.04", (1965, 1980, 1980), (34, 41))


def words(lines):
    return " ".join(" ".join(lines).split())


def with_benchmark(bundle, **changes):
    """The manifest of the text tower alone, with another benchmark and no choice."""
    manifest = replace(bundle.manifest, components=(bundle.manifest.component("text"),), choices={})
    return replace(manifest, benchmarks={"text": replace(manifest.benchmarks["text"], **changes)})


def on_gpu(bundle, **changes):
    """The manifest as if ONNX Runtime had run the text tower on a GPU, with CUDA graphs too."""
    found = []
    for x in bundle.manifest.benchmarks["text"].latencies:
        if x.contender == PLAIN:
            found += [replace(x, copied=3.25), replace(x, contender=REPLAYING, median=0.125, copied=2.75)]
        else:
            found.append(x)
    return with_benchmark(bundle, latencies=tuple(found), **changes)


def row_of(lines, start):
    return next(line for line in lines if line.strip().startswith(start))


@pytest.mark.parametrize("width", WIDTHS)
def test_times_with_copies_are_shown_where_there_is_a_device(bundle, width):
    lines = shown(width, *manifest_tables(on_gpu(bundle), width))
    assert {"with", "copies"} <= headings(lines)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert sum("3.25" in line.split() for line in lines) == len(bundle.manifest.benchmarks["text"].of(PLAIN))
    assert "3.25" not in row_of(lines, "openvino").split()
    assert not any(line.endswith(": ") for line in lines), "a mode has no verdict of its own"


def test_on_a_processor_there_are_no_copies(bundle):
    lines = shown(160, *manifest_tables(with_benchmark(bundle), 160))
    assert "copies" not in headings(lines)
    assert "CUDA" not in words(lines)


def test_what_replays_graphs_has_a_line_of_its_own_below_the_variant(bundle):
    lines = shown(160, *manifest_tables(on_gpu(bundle), 160))
    place = next(n for n, line in enumerate(lines) if line.strip().startswith(f"onnxruntime{CUDA_GRAPH}"))
    assert lines[place - 1].split()[:2] == ["onnxruntime", "fp32"]
    assert {"0.125", "2.75", "fp32"} <= {*lines[place].split()}
    assert not any(line.strip().startswith(ORT) for line in lines), "it is no peer"


def test_the_chosen_says_that_it_replays_graphs(bundle):
    manifest = on_gpu(bundle)
    for graphed, said in ((True, f"chosen{CUDA_GRAPH}"), (False, "chosen")):
        choice = Choice(ORT, cuda_graph=graphed)
        lines = shown(160, *manifest_tables(replace(manifest, choices={"text": choice}), 160))
        assert re.split(r"\s{2,}", row_of(lines, "onnxruntime ").rstrip())[-1].strip() == said


def test_graphs_that_failed_are_told_and_the_variant_is_shown_as_ever(bundle):
    manifest = with_benchmark(bundle, failures=(NotMeasured(REPLAYING, "the capture was refused"),))
    for width in (80, 160):
        lines = shown(width, *manifest_tables(manifest, width))
        assert "not measured: the capture was refused" in words(lines)
        assert sum(line.strip().startswith("onnxruntime") for line in lines) >= 2
        median = f"{manifest.benchmarks['text'].of(PLAIN)[0].median:.3g}"
        assert median in row_of(lines, "onnxruntime").split()


def test_the_caption_says_how_a_gpu_was_timed_and_what_it_did(bundle):
    said = words(shown(160, *manifest_tables(on_gpu(bundle, conditions=(STEADY,)), 160)))
    assert "On the GPU median is by CUDA events, arrays in its memory; with copies is from and to arrays on the" in said
    assert "NVIDIA H200, driver 580.159.04: 1965-1980 MHz, 34-41 C." in said
    assert "MAY HAVE MOVED" not in said


def test_the_caption_flags_what_may_have_moved_the_times(bundle):
    slowed = replace(STEADY, clock=(1500, 1700, 1980), throttled=("power limit",))
    said = words(shown(160, *manifest_tables(on_gpu(bundle, conditions=(STEADY, slowed)), 160)))
    flag = "THE TIMES MAY HAVE MOVED: the clock moved from 1500 to 1980 MHz, slowed down: power limit."
    assert f"1500-1980 MHz, 34-41 C. {flag}" in said
    assert said.count("MAY HAVE MOVED") == 1


def test_what_the_target_must_have_besides_is_told_with_the_variant(bundle):
    variant = replace(bundle.manifest.variant(ORT), backend="pytorch")
    manifest = replace(with_benchmark(bundle).with_variant(variant), benchmarks={})
    lines = shown(160, *manifest_tables(manifest, 160))
    assert row_of(lines, "pytorch").split()[:4] == ["pytorch", "(needs", "torch)", "fp32"]
    assert "(needs" not in row_of(lines, "openvino")


@pytest.mark.parametrize("width", WIDTHS)
def test_what_several_gpus_achieve_is_a_table(bundle, width):
    throughputs = (
        Throughput(PLAIN, 1, {"batch": 8, "sequence": 16}, 2500.0),
        Throughput(PLAIN, 2, {"batch": 8, "sequence": 16}, 4750.0),
        Throughput(PLAIN, 1, {"batch": 1, "sequence": 16}, 1000.0),
        Throughput(PLAIN, 2, {"batch": 1, "sequence": 16}, 1990.0),
        Throughput(REPLAYING, 1, {"batch": 1, "sequence": 16}, 50.5),
    )
    conditions = (
        Conditions("NVIDIA H200", (1950, 1980, 1980), (35, 60)),
        Conditions("NVIDIA H200", (1500, 1900, 1980), (35, 70), ("power limit",)),
    )
    title, header, *rows = shown(
        width,
        scaling_table(
            "text", Scaling(throughputs, conditions, (NotMeasured(Entrant("text/pytorch/fp16", "fp16"), "too few"),))
        ),
    )
    assert title.strip() == "text: throughput"
    assert header.split() == ["variant", "sizes", "GPUs", "per", "s", "times", "one", "GPU"]
    assert [row.split()[-3:] for row in rows[:5]] == [
        ["1", "2,500", "1.00"],
        ["2", "4,750", "1.90"],
        ["1", "1,000", "1.00"],
        ["2", "1,990", "1.99"],
        ["1", "50.5", "1.00"],
    ]
    assert "onnxruntime/fp32" in rows[0]
    assert "batch 8, sequence 16" in rows[0]
    assert f"onnxruntime/fp32{CUDA_GRAPH}"[:23] in rows[4]
    said = words(rows)
    assert "Each GPU has a process of its own, inputs in its memory. NVIDIA H200: 1950-1980 MHz, 35-60 C." in said
    assert "1500-1980 MHz, 35-70 C. THE TIMES MAY HAVE MOVED: " in said
    assert "pytorch/fp16 is not measured: too few." in said


def test_that_nothing_ran_on_several_gpus_is_printed_too(bundle, capsys):
    failed = Scaling(failures=(NotMeasured(PLAIN, "the GPU is lost"),))
    benchmarks = {"text": replace(bundle.manifest.benchmarks["text"], scaling=failed)}
    print_manifest(replace(bundle.manifest, benchmarks=benchmarks))
    assert "onnxruntime/fp32 is not measured: the GPU is lost." in capsys.readouterr().out


@pytest.mark.parametrize("width", WIDTHS)
def test_layers_are_ordered_by_what_they_cost_and_summed_by_precision(width):
    subgraph = "{ForeignNode[/pre_layrnorm/Constant_output_0.../visual_projection/MatMul]}"
    layers = [
        LayerTime("Reformat 0", "Reformat", (), "fp32", 5e-6, "NVIDIA H200"),
        LayerTime("/conv", "CaskConvolution", ("/conv",), "fp16", 15e-6, "NVIDIA H200"),
        LayerTime(
            subgraph,
            "Myelin",
            ("/pre_layrnorm/Constant_output_0", "/visual_projection/MatMul"),
            "fp16",
            8e-5,
            "NVIDIA H200",
        ),
    ]
    title, header, *rows = shown(width, layers_table("image/tensorrt/fp16", layers))
    assert title.strip() == "image/tensorrt/fp16: layers"
    assert header.split() == ["us", "share", "precision", "layer", "ONNX", "nodes"]
    firsts = [row.split()[:3] for row in rows if re.match(r"\s*\d+\.\d ", row)]
    assert firsts == [["80.0", "80.0%", "fp16"], ["15.0", "15.0%", "fp16"], ["5.0", "5.0%", "fp32"]]
    text = words(rows)
    assert "3 layers, 100 us, of it in fp16 95%, fp32 5%. To measure each layer slows them all." in text
    layer = slice(header.index("layer"), header.index("ONNX"))
    assert f"Myelin{subgraph}" in "".join(row[layer].strip() for row in rows), "whole, over several lines"
    assert text.count("/conv ") == 1, "a layer that is a node goes by its operator"
    assert not any("…" in row for row in rows)
    assert max(map(len, rows)) <= width


def test_of_many_layers_the_costliest_are_shown_and_the_others_together_unless_all_are_asked_for():
    layers = [LayerTime(f"layer{i}", "MatMul", (), "fp32", (i + 1) * 1e-6, "CPU") for i in range(50)]
    few, all_ = (shown(120, layers_table("m/openvino/fp32", layers, verbose=verbose)) for verbose in (False, True))
    costs = [float(row.split()[0]) for row in few if " layer" in row and re.match(r"\s*\d+\.\d ", row)]
    assert costs == [*(float(n) for n in range(50, 30, -1)), sum(range(1, 31))]
    assert "30 more layers" in words(few)
    assert len([row for row in all_ if " layer" in row and re.match(r"\s*\d+\.\d ", row)]) == 50
    assert "more layers" not in words(all_)


def test_where_layers_ran_is_said_if_not_all_ran_in_one_place():
    layers = [
        LayerTime("attention", "Attention", (), "fp16", 9e-5, "CUDA"),
        LayerTime("size", "Shape", ("size",), "int64", 1e-5, "CPU"),
    ]
    _, header, *rows = shown(120, layers_table("image/onnxruntime-cuda/fp16", layers))
    assert header.split() == ["us", "share", "precision", "on", "layer", "ONNX", "nodes"]
    assert [row.split()[3] for row in rows[:2]] == ["CUDA", "CPU"]


def test_of_a_layer_of_many_nodes_the_first_and_the_last_are_named_and_all_counted():
    few, many = ("a", "b", "c", "d"), ("a", "b", "c", "d", "e")
    layers = [LayerTime(f"of {len(n)}", "Myelin", n, "fp16", 1e-5, "NVIDIA H200") for n in (few, many)]
    _, _, *rows = shown(120, layers_table("image/tensorrt/fp16", layers))
    assert rows[0].split("of 4")[1].strip() == "a, b, c, d"
    assert rows[1].split("of 5")[1].strip() == "a ... e, 5 nodes"


def test_no_layers_are_no_accident():
    assert "0 layers" in words(shown(80, layers_table("image/tensorrt/fp16", [])))
