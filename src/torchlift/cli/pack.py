"""``torchlift pack``."""

from __future__ import annotations

from pathlib import Path

import click

from torchlift.cli import common, display
from torchlift.cli.words import echo


@click.command("pack", short_help="Put a bundle into one .zip file.")
@common.bundle_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file. [default: BUNDLE.zip]")
@common.json_option
@common.verbose_option
def command(bundle: Path, output: Path | None, as_json: bool, verbose: bool) -> None:
    """Check a bundle and put it into one .zip file, uncompressed, to be copied whole."""
    from torchlift.archive import pack

    with display.progress_display() as progress:
        file = pack(bundle, output, progress)
    if as_json:
        display.print_json({"file": str(file), "bytes": file.stat().st_size})
    else:
        echo(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")
