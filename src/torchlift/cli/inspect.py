"""``torchlift inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from torchlift.cli import common, display


@click.command("inspect", short_help="Show what a bundle holds and what is known of it.")
@common.bundle_argument
@click.option("--variant", help="Only this variant, with every golden's difference.")
@common.json_option
@common.verbose_option
def command(bundle: Path, variant: str | None, as_json: bool, verbose: bool) -> None:
    """Check every file and show components, signatures, operators, variants and evidence."""
    from torchlift.bundle import Bundle
    from torchlift.cli.tables import components_table, facts_line, operators_line, verification_table

    with display.progress_display() as progress:
        opened = Bundle.open(bundle, progress)
    if as_json:
        display.print_json(opened.manifest.variant(variant) if variant else opened.manifest)
        return
    out = display.console()
    if variant:
        opened.manifest.variant(variant)
        out.print(verification_table(opened.manifest, out.width, only=variant, verbose=True))
        return
    out.print(components_table(opened))
    out.print(facts_line(opened.manifest))
    for component in opened.manifest.components:
        out.print(operators_line(opened, component))
    display.print_manifest(opened.manifest, verbose)
