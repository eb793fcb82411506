"""``torchlift inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from torchlift.cli import common, display, on


@click.command("inspect", short_help="Show what a bundle holds and what is known of it.")
@common.bundle_argument
@common.variant_option("Only this variant, with every golden's difference.")
@click.option(
    "--layers",
    is_flag=True,
    help="With --variant: run it, and show what the costliest layers cost and compute in. With -v all layers.",
)
@click.option("--batch", type=click.IntRange(1), help="With --layers: the batch. [default: the least]")
@on.device_option("With --layers: the GPU of what runs on one.")
@common.json_option
@common.verbose_option
def command(
    bundle: Path,
    variant: str | None,
    layers: bool,
    batch: int | None,
    device: int | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Check every file and show components, signatures, operators, variants and evidence."""
    if layers:
        if not variant:
            raise click.UsageError("--layers shows one variant's: name it with --variant.")
        _show_layers(bundle, variant, batch, device or 0, as_json, verbose)
        return
    for name, given in {"--batch": batch, "--device": device}.items():
        if given is not None:
            raise click.UsageError(f"{name} is of --layers.")
    from torchlift.bundle import Bundle
    from torchlift.cli.components import components_table, facts_line, operators_line
    from torchlift.cli.proofs import verification_table

    with display.progress_display() as progress:
        opened = Bundle.open(bundle, progress)
    if as_json:
        display.print_json(opened.manifest.variant(variant) if variant else opened.manifest)
        return
    out = display.console()
    if variant:
        only = (opened.manifest.variant(variant).name,)
        out.print(verification_table(opened.manifest, out.width, only=only, verbose=True))
        return
    out.print(components_table(opened))
    out.print(facts_line(opened.manifest))
    for component in opened.manifest.components:
        out.print(operators_line(opened, component))
    display.print_manifest(opened.manifest, verbose)


def _show_layers(bundle: Path, variant: str, batch: int | None, device: int, as_json: bool, verbose: bool) -> None:
    from torchlift.cli.costs import layers_table
    from torchlift.machine import RunOn
    from torchlift.manifest import read_manifest
    from torchlift.stages import layers_of

    name = read_manifest(bundle).variant(variant).name
    with display.progress_display() as progress:
        layers = layers_of(bundle, name, batch, RunOn(device=device), progress)
    if as_json:
        display.print_json(layers)
    else:
        display.console().print(layers_table(name, layers, verbose=verbose))
