"""``torchlift bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torchlift.cli import common


@click.command("bench", short_help="Measure a bundle's variants side by side.")
@common.bundle_argument
@common.bench_options
@click.option("--checkpoint", help="Where the model came from: measures PyTorch too, as the baseline.")
@click.option("--module", "module_", metavar="FILE.py:FUNCTION", help="The same for a module of your own.")
@click.option(
    "--format", "format_", type=click.Choice(["table", "reference"]), default="table", help="reference: its lines."
)
@common.json_option
@common.verbose_option
def command(
    bundle: Path,
    batches: str | None,
    rounds: int,
    threads: int,
    checkpoint: str | None,
    module_: str | None,
    format_: str,
    as_json: bool,
    verbose: bool,
) -> None:
    """Measure the variants in one run, a process each, in interleaved rounds, and choose again."""
    from torchlift.cli.tables import manifest_tables, reference_lines
    from torchlift.stages import BenchOptions, bench_bundle

    location = checkpoint or module_
    peers = _peers(bundle, location, threads) if location else None
    options = BenchOptions(common.parse_batches(batches), latency=common.latency_options(rounds, threads))
    with common.progress_display() as progress:
        manifest = bench_bundle(bundle, options, peers, progress)
    if as_json:
        common.print_json(manifest.benchmarks)
    elif format_ == "reference":
        for component, benchmark in manifest.benchmarks.items():
            for line in reference_lines(component, benchmark):
                click.echo(line)
    else:
        out = common.console()
        for table in manifest_tables(manifest, out.width):
            out.print(table)


def _peers(bundle: Path, location: str, threads: int) -> Any:
    from functools import partial

    from torchlift.ship import peers, source_of

    return partial(peers, source_of(bundle, location), threads=threads)
