"""``torchlift verify``."""

from __future__ import annotations

from pathlib import Path

import click

from torchlift.cli import common, display, on


@click.command("verify", short_help="Compare a bundle's variants with PyTorch's answers.")
@common.bundle_argument
@common.variants_option("Verify only this one")
@common.verify_options
@on.threads_option
@common.json_option
@common.verbose_option
def command(
    bundle: Path, variants: tuple[str, ...], tolerances: tuple[str, ...], threads: int, as_json: bool, verbose: bool
) -> None:
    """Run every variant on this machine at every golden and compare.

    Exits with 1 where a variant is refused that is chosen, is named by --variant, or agreed before; and where a
    component is left without any that agrees. Other variants may be refused, as they were when the bundle was made.
    """
    from torchlift import api
    from torchlift.cli.proofs import verification_table
    from torchlift.errors import VerificationError
    from torchlift.jobs import lost_variants
    from torchlift.manifest import read_manifest

    before = read_manifest(bundle)
    named = [variant.name for name in variants for variant in before.variants_called(name)]
    with display.progress_display() as progress:
        manifest = api.verify(
            bundle,
            variants=named,
            tolerances=common.parse_tolerances(tolerances),
            threads=threads,
            progress=progress,
        )
    if as_json:
        display.print_json({v.name: v.verification for v in manifest.variants if not named or v.name in named})
    else:
        out = display.console()
        out.print(verification_table(manifest, out.width, only=named, verbose=verbose))
    if all(v.verification is None for v in manifest.variants):
        raise VerificationError(f"{bundle} has no variant to verify", remedy=f"Run `torchlift build {bundle}` first.")
    if lost_variants(before, manifest, named):
        raise click.exceptions.Exit(1)
