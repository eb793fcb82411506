"""``torchlift build``."""

from __future__ import annotations

from pathlib import Path

import click

from torchlift.cli import common


@click.command("build", short_help="Make and verify variants of a bundle on this machine.")
@common.bundle_argument
@common.build_options
@common.verify_options
@common.bench_options
@common.json_option
@common.verbose_option
def command(
    bundle: Path,
    backends: tuple[str, ...],
    precisions: str | None,
    tolerances: tuple[str, ...],
    batches: str | None,
    rounds: int,
    threads: int,
    as_json: bool,
    verbose: bool,
) -> None:
    """Make the variants that this machine runs, verify and measure them, and choose; without torch."""
    from torchlift.stages import BenchOptions, BuildOptions, build_bundle

    with common.progress_display() as progress:
        manifest = build_bundle(
            bundle,
            BuildOptions(backends, common.parse_precisions(precisions)),
            common.parse_tolerances(tolerances, threads),
            BenchOptions(common.parse_batches(batches), latency=common.latency_options(rounds, threads)),
            progress,
        )
    if as_json:
        common.print_json(manifest)
    else:
        common.print_manifest(manifest, verbose)
