"""``torchlift verify``."""

from __future__ import annotations

from pathlib import Path

import click

from torchlift.cli import common, display, on


@click.command("verify", short_help="Compare a bundle's variants with PyTorch's answers.")
@common.bundle_argument
@common.verify_options
@on.threads_option
@common.json_option
@common.verbose_option
def command(bundle: Path, tolerances: tuple[str, ...], threads: int, as_json: bool, verbose: bool) -> None:
    """Run every variant on this machine at every golden and compare; exits with 1 where one does not agree."""
    from torchlift import api
    from torchlift.cli.tables import verification_table
    from torchlift.errors import VerificationError

    with display.progress_display() as progress:
        manifest = api.verify(
            bundle, tolerances=common.parse_tolerances(tolerances), threads=threads, progress=progress
        )
    if as_json:
        display.print_json({v.name: v.verification for v in manifest.variants})
    else:
        out = display.console()
        out.print(verification_table(manifest, out.width, verbose=verbose))
    proofs = [v.verification for v in manifest.variants if v.verification is not None]
    if not proofs:
        raise VerificationError(f"{bundle} has no variant to verify", remedy=f"Run `torchlift build {bundle}` first.")
    if not all(proof.passed for proof in proofs):
        raise click.exceptions.Exit(1)
