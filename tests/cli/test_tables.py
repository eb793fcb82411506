from dataclasses import replace

import pytest
from rich.console import Console

from torchlift.bundle import Bundle
from torchlift.cli.tables import components_table, manifest_tables, verification_table


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


@pytest.mark.parametrize("width", [100, 160])
def test_nothing_is_cut_off(bundle, width):
    tables = (components_table(bundle), *manifest_tables(bundle.manifest, width))
    lines = shown(width, *tables, verification_table(bundle.manifest, width, verbose=True))
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


@pytest.mark.parametrize(
    ("width", "columns"), [(100, ["batch", "median ms", "speed-up"]), (160, ["p95", "p99", "per s"])]
)
def test_a_wide_table_tells_more(bundle, width, columns):
    header = next(line for line in shown(width, *manifest_tables(bundle.manifest, width)) if "variant" in line)
    assert all(f" {name} " in header for name in columns)
    assert ("p95" in header) == (width == 160)


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
