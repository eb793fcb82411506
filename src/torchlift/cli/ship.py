"""``torchlift ship``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torchlift.cli import common, display, gpu


@click.command("ship", short_help="Export, build, verify, measure, choose: the main job.")
@common.source_options
@common.output_option
@common.export_options
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
@click.option("--compile", "compiled", is_flag=True, help="Measure torch.compile too.")
@common.json_option
@common.verbose_option
def command(
    output: Path,
    exporter: Any,
    opset: int | None,
    seed: int,
    compiled: bool,
    as_json: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Take a trained model to a bundle that is verified, measured and ready to serve without PyTorch.

    \b
    torchlift ship chinese-clip --checkpoint clip_cn_vit-b-16.pt -o clip/
    torchlift ship chinese-clip --checkpoint f.pt --data muge/ --within recall@1=0.2 -o clip/
    torchlift ship my_project/net.py:build -o net/
    """
    from torchlift import api

    source = common.parse_source(**{name: given.pop(name) for name in common.SOURCE})
    compiling = gpu.parse_compile(**{name: given.pop(name) for name in gpu.COMPILE})
    job = {**common.parse_job(**given), **compiling, "exporter": exporter, "opset": opset, "seed": seed}
    with display.progress_display() as progress:
        bundle = api.ship(**source, **job, output=output, compiled=compiled, progress=progress)
    if as_json:
        display.print_json(bundle.manifest)
    else:
        display.print_manifest(bundle.manifest, verbose)
    common.require_gate(bundle.manifest)
    if not as_json:
        display.console().print(f"{output} is ready: torchlift run {output} ...", soft_wrap=True)
