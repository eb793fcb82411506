"""``torchlift bisect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torchlift.cli import common, display, on


@click.command("bisect", short_help="Find the nodes whose precision costs the accuracy.")
@common.bundle_argument
@common.variant_option("For example image/openvino/int8.", required=True)
@common.data_options
@common.evaluations_option
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Print at most this many.")
@on.threads_option
@common.json_option
@common.verbose_option
def command(
    bundle: Path,
    variant: str,
    evaluations: int,
    top: int,
    threads: int,
    as_json: bool,
    verbose: bool,
    **data: Any,
) -> None:
    """Convert parts of a component's graph, run each, and rank the nodes by what their conversion alone costs.

    Parts are tried in the variant's own runtime, on the task where --data is given and else at the golden samples. The
    bundle is not changed. For fp32 and bf16 nothing is converted: there it names the first nodes that the runtime
    computes otherwise than the graph says.

    \b
    torchlift bisect clip/ --variant image/onnxruntime/int8 --data muge/ --limit 200
    torchlift bisect net/ --variant model/openvino/fp32
    """
    from torchlift import api
    from torchlift.cli.accuracy import findings_tables, partings_tables
    from torchlift.jobs import BisectReport

    with display.progress_display() as progress:
        found = api.bisect(bundle, variant, evaluations=evaluations, threads=threads, progress=progress, **data)
    if as_json:
        display.print_json(found)
        return
    out = display.console()
    if isinstance(found, BisectReport):
        parts = findings_tables(found, top, verbose=verbose)
    else:
        parts = partings_tables(found, top)
    for part in parts:
        out.print(part)
