import re
from dataclasses import replace

import pytest
from rich.console import Console

from torchlift.bundle import Bundle
from torchlift.cli.tables import (
    components_table,
    manifest_tables,
    reference_lines,
    runtimes_table,
    verification_table,
)


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
    assert said.startswith("tolerance: at most 0.0001 of scale, cosine at least 0.99999 for ")
    assert all(variant.name in said for variant in bundle.manifest.variants)


def test_what_ran_is_shown(bundle):
    lines = shown(100, runtimes_table(bundle.manifest))
    row = next(line for line in lines if line.split()[:2] == ["text", "onnxruntime/fp32"])
    assert row.rstrip().endswith(bundle.manifest.benchmarks["text"].runtimes["text/onnxruntime/fp32"])


def test_reference_lines_name_the_component_once(bundle):
    benchmark = bundle.manifest.benchmarks["image"]
    eager = replace(benchmark.latencies[0], contender="pytorch eager")
    lines = [*reference_lines("image", replace(benchmark, latencies=(eager, *benchmark.latencies)))]
    assert lines[0].startswith("[pytorch eager image inference speed (batch-size: 1):] mean=")
    assert any(line.startswith("[onnxruntime/fp32 image inference speed (batch-size: 1):] mean=") for line in lines)


def test_a_peer_that_failed_is_in_the_table(bundle):
    benchmark = bundle.manifest.benchmarks["text"]
    failed = replace(benchmark, baseline=None, failures={"pytorch eager": "no clip.pt"})
    manifest = replace(bundle.manifest, benchmarks={"text": failed})
    lines = shown(160, *manifest_tables(manifest, 160))
    row = next(line for line in lines if "pytorch eager" in line)
    assert "not measured: no clip.pt" in row
    assert not any("None" in line for line in lines)


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
