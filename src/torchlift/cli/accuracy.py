"""What conversions did, what tasks were scored and what a search found, as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from torchlift.cli.tables import data_text, gated_metric, size_text
from torchlift.cli.verdicts import calibration_text, damage_text, decides_text, drop_text, unit_text
from torchlift.convert.search import Finding
from torchlift.errors import some, telling
from torchlift.evidence import POINTS, Interval, KeptNode, Score, Scoring
from torchlift.graph.units import Unit
from torchlift.jobs import BisectReport, PartingReport
from torchlift.manifest import Graph, Manifest
from torchlift.messages import breach_text, failure_text, reference_text

_SHOWN = 3
"""Kept nodes that are named where there is no room for all."""


def conversions_table(manifest: Manifest, *, verbose: bool = False) -> RenderableType:
    """What each converted graph is: how much of it, on what samples, and which nodes stayed FP32 and why."""
    table = Table(title="converted graphs", title_justify="left", title_style="bold", box=None)
    for name in ("graph", "converted", "size", "ranges from", "stays FP32"):
        table.add_column(name, justify="right" if name in ("converted", "size") else "left", overflow="fold")
    for graph in converted_graphs(manifest):
        table.add_row(graph.name, *_conversion(manifest, graph, verbose))
    return Group(table, Text(""))


def converted_graphs(manifest: Manifest) -> list[Graph]:
    """The graphs that a conversion made, or could not make: not the programs, which are exported."""
    return [graph for graph in manifest.graphs if graph.conversion or graph.failure]


def _conversion(manifest: Manifest, graph: Graph, verbose: bool) -> list[str]:
    done = graph.conversion
    if graph.failure or done is None:
        return ["-", "-", "-", f"not converted: {graph.failure if verbose else telling(graph.failure)}"]
    size = sum(manifest.files[path].size for path in graph.files)
    share = f"{done.converted} of {done.candidates} nodes" if done.candidates else "as NNCF does"
    return [share, size_text(size), calibration_text(done.calibration), _kept(done.kept, verbose) + _mended(graph)]


def _kept(kept: tuple[KeptNode, ...], verbose: bool) -> str:
    """The nodes by reason, the rarest reason first."""
    reasons = Counter(node.reason for node in kept)
    said = []
    for reason in sorted(reasons, key=lambda r: reasons[r]):
        nodes = [node.module or node.node for node in kept if node.reason == reason]
        said.append(f"{some(nodes, len(nodes) if verbose else _SHOWN)}: {reason}")
    return "; ".join(said)


def _mended(graph: Graph) -> str:
    repair = graph.conversion.repair if graph.conversion else None
    if repair is None:
        return ""
    verdict = "mended" if repair.held else "mended in vain"
    return (
        f"; {verdict} after {repair.evaluations} trials: {damage_text(repair.damage)} went from {repair.before:.3g} to "
        f"{repair.after:.3g}"
    )


def scores_table(manifest: Manifest, *, verbose: bool = False) -> RenderableType:
    """Every variant's metrics with their intervals; ``verbose`` shows all metrics, else the one that decides."""
    scoring = manifest.scoring
    assert scoring is not None
    metrics = list(scoring.metrics) if verbose else [gated_metric(manifest)]
    table = Table(title=f"{manifest.name}: {scoring.task}", title_justify="left", title_style="bold", box=None)
    for name in ("variant", "metric", "score", "drop", "gate"):
        table.add_column(
            name,
            justify="right" if name in ("score", "drop") else "left",
            no_wrap=name in ("metric", "score", "drop"),
            overflow="fold",
        )
    for metric in metrics:
        table.add_row(reference_text(scoring.reference), metric, str(scoring.metrics[metric]), "", "")
    together = {"the chosen together": scoring.together} if scoring.together else {}
    for name, score in {**scoring.scores, **together}.items():
        for number, metric in enumerate(metrics):
            cells = (metric, str(score.metrics.get(metric, "-")), str(score.drops.get(metric, "-")))
            table.add_row("" if number else name, *cells, "" if number else _verdict(manifest, score))
    confidence = scoring.metrics[metrics[0]].confidence
    said = [
        f"{_units(scoring, metrics)} on {data_text(scoring.data)}, with {confidence:g}% intervals of a bootstrap over "
        "the queries; drops are paired, query by query.",
        "Of a model with several components, the others are the reference's.",
        decides_text(manifest.gate),
    ]
    if scoring.data.unusable:
        said.append(f"{scoring.data.unusable} records were skipped: {'; '.join(scoring.data.skipped)}.")
    caption = " ".join(filter(None, said))
    shown: list[RenderableType] = [table, Text(caption, style="dim"), Text("")]
    if verbose and scoring.by_class:
        shown += [_classes_table(manifest, scoring), Text("")]
    return Group(*shown)


def _classes_table(manifest: Manifest, scoring: Scoring) -> Table:
    """Every class with what the reference and each variant achieve in it, by the metric that decides."""
    metric = gated_metric(manifest)
    found = {reference_text(scoring.reference): scoring.by_class}
    found |= {name: score.by_class for name, score in scoring.scores.items()}
    table = Table(title=f"{metric} by class", title_justify="left", title_style="bold", box=None)
    table.add_column("class", overflow="fold")
    for name in found:
        table.add_column(name, justify="right", overflow="fold")
    for label in scoring.by_class:
        values = [classes.get(label, {}).get(metric) for classes in found.values()]
        table.add_row(label, *("-" if value is None else f"{value:.2f}" for value in values))
    return table


def _units(scoring: Scoring, metrics: Sequence[str]) -> str:
    """The units of metrics and of their drops: ``Percent, drop in points``; where they differ, metric by metric."""
    measures = {metric: scoring.measure(metric) for metric in metrics}
    if len({*measures.values()}) == 1:
        measure = measures[metrics[0]]
        return f"{'Percent' if measure.unit == POINTS else 'In ' + unit_text(measure)}, {drop_text(measure)}"
    return "; ".join(f"{metric} in {unit_text(m)}, {drop_text(m)}" for metric, m in measures.items())


def metrics_table(title: str, metrics: Mapping[str, Interval]) -> RenderableType:
    """Metrics of whatever ``title`` names, in their units, with their intervals."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_row(*map(str, metrics.values()))
    return table


def _verdict(manifest: Manifest, score: Score) -> str:
    if not manifest.gate.within:
        return ""
    breach = manifest.gate.breach(score, manifest.scoring.measures if manifest.scoring else {})
    return f"refused: {breach_text(breach)}" if breach else "holds"


def together_line(manifest: Manifest) -> str:
    """What the chosen variants achieve as they serve; empty where that is not known."""
    scoring = manifest.scoring
    if scoring is None or scoring.together is None:
        return ""
    metric = gated_metric(manifest)
    chosen = " with ".join(choice.variant for choice in manifest.choices.values())
    score = scoring.together
    return (
        f"{chosen}: {metric} {score.metrics.get(metric, '-')}, drop {score.drops.get(metric, '-')}"
        f"{'; gate: ' + str(manifest.gate) if manifest.gate.within else ''}"
    )


def findings_tables(report: BisectReport, top: int, *, verbose: bool = False) -> Iterator[RenderableType]:
    """The nodes by what their conversion alone costs, the options that keep the worst in FP32, and with ``verbose`` the
    signal-to-noise of every node.
    """
    search = report.search
    table = Table(
        title=f"{report.variant}: what costs the accuracy", title_justify="left", title_style="bold", box=None
    )
    for name in ("cost alone", "share", "nodes", "PyTorch modules"):
        table.add_column(name, justify="right" if name in ("cost alone", "share") else "left", overflow="fold")
    for finding in search.findings[:top]:
        share = f"{finding.damage / search.total:.0%}" if search.total > 0 else "-"
        table.add_row(f"{finding.damage:.4g}", share, _span([u.node for u in finding.items]), _modules(finding))
    spent = f"{search.evaluations} evaluations in {report.seconds:.0f} s"
    caption = f"cost: {damage_text(report.damage)}. All together: {search.total:.4g}; {spent}."
    yield Group(table, Text(caption, style="dim"), Text(""))
    if report.keep:
        yield Text(f"To keep the worst in FP32: {' '.join(f'--keep {name}' for name in report.keep)}")
    if report.noise:
        yield _noise_table(report, verbose)


def partings_tables(report: PartingReport, top: int) -> Iterator[RenderableType]:
    """The first nodes that a runtime computes otherwise than the graph says, and what is wrong with its answers."""
    right = f"{report.variant} answers as PyTorch does at the golden opt."
    said = "; ".join(map(failure_text, report.answers))
    yield Text(f"{report.variant}: {said}" if said else right)
    at = f"{report.nodes} nodes were compared in {report.seconds:.0f} s"
    if not report.partings:
        fused = " So what the runtime fuses is wrong: no tensor is fused while it is looked at." if said else ""
        yield Text(f"{at}: with all tensors looked at, each computes what the graph says.{fused}")
        return
    table = Table(title="where it parts from the graph", title_justify="left", title_style="bold", box=None)
    for name in ("off by", "limit", "operator", "node", "PyTorch module"):
        table.add_column(name, justify="right" if name in ("off by", "limit") else "left", overflow="fold")
    for parting in report.partings[:top]:
        unit, wrong = parting.unit, parting.difference.nonfinite_mismatch
        off = f"{wrong} NaN or infinite" if wrong else f"{parting.difference.max_scaled:.1e}"
        limit = report.tolerance.differing if parting.difference.elements else report.tolerance.scaled
        table.add_row(off, f"{limit:g}", unit.operator, unit.node, unit.module or "(a function)")
    caption = f"{at}. Off by: a share of the tensor's largest magnitude, at the golden opt; what a node reads agrees."
    yield Group(table, Text(caption, style="dim"), Text(""))


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]} ({len(names)})"


def _modules(finding: Finding[Unit]) -> str:
    return _span(list(dict.fromkeys(unit.module or "(a function)" for unit in finding.items)))


def _noise_table(report: BisectReport, verbose: bool) -> RenderableType:
    table = Table(title="signal-to-noise in dB, the worst first", title_justify="left", title_style="bold", box=None)
    for name in ("weight", "activation", "node", "PyTorch module"):
        table.add_column(name, justify="right" if name in ("weight", "activation") else "left", overflow="fold")
    shown = report.noise if verbose else report.noise[:10]
    for line in shown:
        activation = "-" if line.activation is None else f"{line.activation:.1f}"
        table.add_row(f"{line.weight:.1f}", activation, line.unit.node, line.unit.module)
    return table
