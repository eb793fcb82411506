"""``torchlift bench``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from torchlift.cli import common, display, gpu
from torchlift.cli.words import echo


@click.command("bench", short_help="Measure a bundle's variants side by side.")
@common.bundle_argument
@common.bench_options
@gpu.cuda_graph_option
@gpu.devices_option
@click.option(
    "--size", "sizes", multiple=True, metavar="AXIS=N", help="The size of another axis than batch. [default: optimum]"
)
@click.option("--checkpoint", help="Where the model came from: measures PyTorch too, as the baseline.")
@click.option("--module", "module_", metavar="FILE.py:FUNCTION", help="The same for a module of your own.")
@click.option("--compile", "compiled", is_flag=True, help="Measure torch.compile too.")
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
    cuda_graph: bool,
    devices: str,
    sizes: tuple[str, ...],
    checkpoint: str | None,
    module_: str | None,
    compiled: bool,
    format_: str,
    as_json: bool,
    verbose: bool,
) -> None:
    """Measure the variants in one run, a process each, in interleaved rounds, and choose again."""
    from torchlift import api
    from torchlift.cli.tables import reference_lines

    location = common.parse_location(checkpoint, module_)
    if compiled and not location:
        raise click.UsageError("--compile measures PyTorch: it needs --checkpoint or --module.")
    first, *more = gpu.parse_devices(devices)
    with display.progress_display() as progress:
        manifest = api.bench(
            bundle,
            source=location,
            compiled=compiled,
            batches=common.parse_batches(batches),
            sizes=_sizes(bundle, sizes),
            rounds=rounds,
            threads=threads,
            device=first,
            more_devices=more,
            cuda_graph=cuda_graph,
            progress=progress,
        )
    if as_json:
        display.print_json(manifest.benchmarks)
    elif format_ == "reference":
        for component, benchmark in manifest.benchmarks.items():
            for line in reference_lines(component, benchmark):
                echo(line)
    else:
        display.print_manifest(manifest, verbose)


def _sizes(bundle: Path, texts: tuple[str, ...]) -> Mapping[str, int]:
    """The sizes asked for, of axes that the bundle has."""
    from torchlift.manifest import read_manifest

    sizes = common.parse_sizes(texts)
    known = {axis.name for component in read_manifest(bundle).components for axis in component.signature.axes}
    for name in sizes:
        if name not in known:
            raise click.UsageError(f"--size {name}: the bundle's axes are {', '.join(sorted(known)) or 'none'}.")
    return sizes
