"""What verification found, as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from torchlift.cli.tables import ROOMY, roomy_table
from torchlift.cli.words import with_flags
from torchlift.errors import telling
from torchlift.evidence import Difference, Failure, Tolerance
from torchlift.manifest import Manifest
from torchlift.messages import columns_text, failure_text, run_text, stress_text

_DIFFERENCE: Mapping[str, Callable[[Difference], str]] = {
    "max abs": lambda d: f"{d.max_abs:.1e}",
    "mean abs": lambda d: f"{d.mean_abs:.1e}",
    "median abs": lambda d: f"{d.median_abs:.1e}",
    "max rel": lambda d: f"{d.max_rel:.1e}",
    "mean rel": lambda d: f"{d.mean_rel:.1e}",
    "median rel": lambda d: f"{d.median_rel:.1e}",
    "of scale": lambda d: f"{d.max_scaled:.1e}",
    "cosine": lambda d: f"{d.cosine:.6f}",
    "NaN": lambda d: str(d.nan),
    "Inf": lambda d: str(d.inf),
}
_DIFFERENCE_NARROW = {name: _DIFFERENCE[name] for name in ("max abs", "max rel", "of scale", "cosine")}


def verification_table(
    manifest: Manifest, width: int, *, only: Collection[str] = (), verbose: bool = False
) -> RenderableType:
    """Differences from PyTorch: the worst of each variant, or with ``verbose`` every golden and output; and below, why
    a variant is refused, and the tolerances that were applied. ``only`` names variants, by default all are shown.
    """
    cells = _DIFFERENCE if width >= ROOMY else _DIFFERENCE_NARROW
    table = roomy_table("differences from PyTorch in FP32", width)
    for name in ("variant", "golden", "output"):
        table.add_column(name, overflow="fold")
    for name in cells:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    reasons: list[Text] = []
    tolerances: dict[Tolerance, list[str]] = {}
    for variant in manifest.variants:
        if only and variant.name not in only:
            continue
        proof = variant.verification
        if proof is None:
            table.add_row(variant.name, *["-"] * (2 + len(cells)), telling(variant.failure) or "not verified")
            reasons += [Text(f"{variant.name} was not built: {variant.failure}")] * bool(verbose and variant.failure)
            continue
        verdict = Text("agrees", "green") if proof.passed else Text("refused", "red")
        checks = [*proof.checks, *proof.invariance] if verbose else ([proof.worst] if proof.checks else [])
        rows = [
            [run_text(c), c.output + columns_text(c), *(cell(c.difference) for cell in cells.values())] for c in checks
        ]
        for number, row in enumerate(rows or [["-"] * (2 + len(cells))]):
            table.add_row(variant.name, *row, "" if number else verdict)
        said = [f"{variant.name} is refused: {_reason(failure, verbose)}" for failure in proof.failures]
        noted = [f"{variant.name} beyond the goldens, {stress_text(note)}" for note in proof.stress]
        reasons += [*map(Text, map(with_flags, said)), *(Text(line, style="dim") for line in noted)]
        tolerances.setdefault(proof.tolerance, []).append(variant.name)
    held = [
        f"tolerance: at most {t.scaled:g} of scale, cosine at least {t.cosine:g}, at most {t.differing:g} of whole "
        f"numbers differ for {', '.join(names)}"
        for t, names in tolerances.items()
    ]
    return Group(table, *reasons, *(Text(line, style="dim") for line in held))


def _reason(failure: Failure, verbose: bool) -> str:
    """Why a variant is refused; with ``verbose`` all that the runtime said."""
    return failure.detail if verbose and failure.kind == "error" else failure_text(failure)
