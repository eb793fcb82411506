"""``torchlift export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torchlift.cli import common, display


@click.command("export", short_help="Write the ONNX graphs and the goldens of a model.")
@common.source_options
@common.output_option
@common.export_options
@click.option(
    "--program", is_flag=True, help="Also write the torch.export program, for --backend pytorch where torch is."
)
@common.json_option
@common.verbose_option
def command(
    output: Path,
    exporter: Any,
    opset: int | None,
    seed: int,
    program: bool,
    as_json: bool,
    verbose: bool,
    **source: Any,
) -> None:
    """Write a bundle that holds the ONNX graphs, PyTorch's golden answers and the assets, and no variant yet."""
    from torchlift import api
    from torchlift.cli.components import components_table, operators_line

    asked = {"exporter": exporter, "opset": opset, "seed": seed, "program": program}
    with display.progress_display() as progress:
        bundle = api.export(**common.parse_source(**source), **asked, output=output, progress=progress)
    if as_json:
        display.print_json(bundle.manifest)
        return
    out = display.console()
    out.print(components_table(bundle))
    for component in bundle.manifest.components if verbose else ():
        out.print(operators_line(bundle, component))
