"""``torchlift ship``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torchlift.cli import common


@click.command("ship", short_help="Export, build, verify, measure, choose: the main job.")
@common.source_options
@common.output_option
@common.export_options
@common.build_options
@common.verify_options
@common.bench_options
@click.option("--compile", "compiled", is_flag=True, help="Measure torch.compile too.")
@common.json_option
@common.verbose_option
def command(
    output: Path,
    exporter: Any,
    opset: int | None,
    seed: int,
    backends: tuple[str, ...],
    precisions: str | None,
    tolerances: tuple[str, ...],
    batches: str | None,
    rounds: int,
    threads: int,
    compiled: bool,
    as_json: bool,
    verbose: bool,
    **source: Any,
) -> None:
    """Take a trained model to a bundle that is verified, measured and ready to serve without PyTorch.

    \b
    torchlift ship chinese-clip --checkpoint clip_cn_vit-b-16.pt -o clip/
    torchlift ship my_project/net.py:build -o net/
    """
    from torchlift.export import ExportOptions
    from torchlift.ship import ShipOptions, ship
    from torchlift.stages import BenchOptions, BuildOptions

    options = ShipOptions(
        export=ExportOptions(exporter, opset, seed),
        build=BuildOptions(backends, common.parse_precisions(precisions)),
        verify=common.parse_tolerances(tolerances, threads),
        bench=BenchOptions(common.parse_batches(batches), latency=common.latency_options(rounds, threads)),
        compiled=compiled,
    )
    with common.progress_display() as progress:
        bundle = ship(common.parse_source(**source), output, options, progress)
    if as_json:
        common.print_json(bundle.manifest)
        return
    common.print_manifest(bundle.manifest, verbose)
    common.console().print(f"{output} is ready: torchlift run {output} ...", soft_wrap=True)
