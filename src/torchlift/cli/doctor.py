"""``torchlift doctor``."""

from __future__ import annotations

import click

from torchlift.cli import common, display


@click.command("doctor", short_help="Say what this machine can do, and what to install.")
@common.json_option
@common.verbose_option
def command(as_json: bool, verbose: bool) -> None:
    """Show the machine, and for each backend whether it works here, why not, and what to install."""
    from torchlift.cli.tables import doctor_table
    from torchlift.doctor import examine

    report = examine()
    if as_json:
        display.print_json(report)
    else:
        display.console().print(doctor_table(report))
