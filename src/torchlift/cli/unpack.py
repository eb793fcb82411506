"""``torchlift unpack``."""

from __future__ import annotations

from pathlib import Path

import click

from torchlift.cli import common, display
from torchlift.cli.words import echo


@click.command("unpack", short_help="Take a bundle out of a .zip file, and check it.")
@click.argument("file", type=click.Path(path_type=Path))
@common.output_option
@common.json_option
@common.verbose_option
def command(file: Path, output: Path, as_json: bool, verbose: bool) -> None:
    """Take a bundle out of a .zip file; nothing is written outside the folder, and every checksum is compared."""
    from torchlift.archive import unpack

    with display.progress_display() as progress:
        bundle = unpack(file, output, progress)
    if as_json:
        display.print_json({"bundle": str(bundle.path), "files": len(bundle.manifest.files)})
    else:
        echo(f"{bundle.path}: {len(bundle.manifest.files)} files, every checksum right")
