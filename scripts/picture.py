"""Draws the tables that `torchlift ship` prints of a bundle as an SVG, for the README.

python scripts/picture.py demo/clip docs/ship.svg
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console

from torchlift.cli.tables import manifest_tables
from torchlift.manifest import read_manifest

WIDTH = 150

bundle, picture = Path(sys.argv[1]), Path(sys.argv[2])
console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
for table in manifest_tables(read_manifest(bundle), WIDTH):
    console.print(table)
console.save_svg(str(picture), title=f"torchlift ship ... -o {bundle.name}/")
