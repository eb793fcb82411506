"""``torchlift score``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torchlift.cli import common, display, on


@click.command("score", short_help="Score a bundle's variants on the model's own task.")
@common.bundle_argument
@common.data_options
@common.gate_options
@click.option("--checkpoint", help="Where the model came from: PyTorch is asked, and is what drops are against.")
@click.option("--module", "module_", metavar="FILE.py:FUNCTION", help="The same for a module of your own.")
@click.option(
    "--write",
    "folder",
    type=click.Path(path_type=Path),
    help="Write the chosen variants' answers in the formats of the task's own scripts.",
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help="Score this file of predictions, in the format of the task's own scripts, in place of the variants.",
)
@click.option("--report", is_flag=True, help="Only print: the bundle's scores, gate and choices stay as they are.")
@on.threads_option
@common.json_option
@common.verbose_option
def command(
    bundle: Path,
    within: tuple[str, ...],
    confidence: str | None,
    objective: Any,
    checkpoint: str | None,
    module_: str | None,
    folder: Path | None,
    predictions: Path | None,
    report: bool,
    threads: int,
    as_json: bool,
    verbose: bool,
    **data: Any,
) -> None:
    """Run every variant that is proven here over a data set, and compare with PyTorch FP32, sample by sample.

    \b
    torchlift score clip/ --data muge/
    """
    from torchlift import api
    from torchlift.cli.accuracy import scores_table

    location = common.parse_location(checkpoint, module_)
    job = {**data, **common.parse_gate(within, confidence, objective), "threads": threads}
    if predictions is not None:
        _print_predictions(bundle, predictions, job, as_json)
        return
    with display.progress_display() as progress:
        manifest = api.score(bundle, source=location, write=folder, report=report, progress=progress, **job)
    if as_json:
        display.print_json(manifest.scoring)
    else:
        out = display.console()
        out.print(scores_table(manifest, verbose=verbose))
        if folder is not None:
            out.print(f"written to {folder}", soft_wrap=True)
    common.require_gate(manifest)


def _print_predictions(bundle: Path, file: Path, job: dict[str, Any], as_json: bool) -> None:
    from torchlift.cli.accuracy import metrics_table
    from torchlift.jobs import JobOptions, score_predictions
    from torchlift.jobs.keywords import job_fields

    with display.progress_display() as progress:
        found = score_predictions(bundle, file, JobOptions(**job_fields(job)), progress)
    if as_json:
        display.print_json(found)
    else:
        display.console().print(metrics_table(file.name, found))
