"""``torchlift build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torchlift.cli import common, display, gpu


@click.command("build", short_help="Make and verify variants of a bundle on this machine.")
@common.bundle_argument
@common.build_options
@gpu.compile_options
@common.data_options
@common.gate_options
@common.calibration_options
@common.keep_option
@common.evaluations_option
@common.verify_options
@common.bench_options
@gpu.cuda_graph_option
@common.json_option
@common.verbose_option
def command(bundle: Path, as_json: bool, verbose: bool, **given: Any) -> None:
    """Make the variants that this machine runs, verify, score and measure them, and choose; without torch."""
    from torchlift import api

    compiling = gpu.parse_compile(**{name: given.pop(name) for name in gpu.COMPILE})
    job = {**common.parse_job(**given), **compiling}
    with display.progress_display() as progress:
        manifest = api.build(bundle, progress=progress, **job)
    if as_json:
        display.print_json(manifest)
    else:
        display.print_manifest(manifest, verbose)
    common.require_gate(manifest)
