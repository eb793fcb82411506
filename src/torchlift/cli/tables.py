"""Manifests and benchmarks as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from torchlift.backends import backend
from torchlift.cli.verdicts import decides_text, drop_text, moved_text, unit_text
from torchlift.cli.words import with_flags
from torchlift.doctor import Report
from torchlift.errors import telling
from torchlift.evidence import Benchmark, Conditions, DataFacts, Entrant, Latency
from torchlift.evidence.times import NOISE
from torchlift.manifest import Component, Manifest, Variant
from torchlift.messages import (
    CUDA_GRAPH,
    entrant_text,
    failure_text,
    reference_text,
    verdict_text,
)


def size_text(size: float) -> str:
    """Bytes in the largest unit that leaves at least one digit before the point."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def rate_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


BESIDE, INTERVALS, ROOMY = 100, 120, 140
"""Columns from which verdicts stand beside the numbers and not below, speed-ups have their intervals, and tables have
room between columns and every statistic of a difference."""

_LONGEST_HEADING = 8
"""Characters; longer headings of narrow tables have two lines."""

_CHOSEN = "chosen"
_NOISY = "too noisy to tell"


def manifest_tables(manifest: Manifest, width: int) -> Iterator[RenderableType]:
    """One table a component: its variants with size, largest difference, latency, and whether chosen or why not."""
    for component in manifest.components:
        if manifest.variants_of(component.name):
            yield _component_table(manifest, component, width)


def _speedup(benchmark: Benchmark, latency: Latency) -> str:
    if latency.speedup is None:
        return "1" if latency.contender == benchmark.baseline else "-"
    return f"{latency.speedup.value:.2f}{'?' * latency.noisy}"


def _speedup_interval(benchmark: Benchmark, latency: Latency) -> str:
    if latency.speedup is None:
        return _speedup(benchmark, latency)
    return f"{latency.speedup.value:.2f} ({_NOISY})" if latency.noisy else str(latency.speedup)


_LATENCY: Mapping[str, Callable[[Benchmark, Latency], str]] = {
    "batch": lambda _, x: str(x.batch),
    "median ms": lambda _, x: _ms(x.median),
    "p95": lambda _, x: _ms(x.p95),
    "p99": lambda _, x: _ms(x.p99),
    "with copies": lambda _, x: "-" if x.copied is None else _ms(x.copied),
    "per s": lambda _, x: rate_text(x.throughput),
    "speed-up": _speedup,
}


def _cells(benchmark: Benchmark | None, width: int) -> dict[str, Callable[[Benchmark, Latency], str]]:
    """The columns of a component's table: that of copies where something ran on a device, at the cost of the
    percentiles where there is no room for all.
    """
    cells = {**_LATENCY, "speed-up": _speedup_interval if width >= INTERVALS else _speedup}
    copied = benchmark is not None and any(x.copied is not None for x in benchmark.latencies)
    left_out = (("p95", "p99") if width < BESIDE else ()) if copied else ("with copies",)
    return {name: cell for name, cell in cells.items() if name not in left_out}


@dataclass(frozen=True)
class _Line:
    """A contender in a component's table."""

    name: str
    precision: str
    size: str
    difference: str
    score: tuple[str, str]
    latencies: tuple[Latency, ...]
    verdict: str
    style: str = ""


def roomy_table(title: str, width: int) -> Table:
    """An empty table, with room between its columns where ``width`` columns are enough for that."""
    narrow = width < ROOMY
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        collapse_padding=narrow,
        pad_edge=not narrow,
    )


def _component_table(manifest: Manifest, component: Component, width: int) -> RenderableType:
    benchmark = manifest.benchmarks.get(component.name)
    cells = _cells(benchmark, width)
    beside = width >= BESIDE
    table = roomy_table(f"{manifest.name}: {component.name}", width)
    table.add_column("variant", overflow="fold")
    table.add_column("precision", no_wrap=True)
    metric = gated_metric(manifest)
    scored = (metric, "drop") if metric and beside else ()
    for name in ("size", "largest diff", *scored, *cells):
        two_lines = width < ROOMY and len(name) > _LONGEST_HEADING
        table.add_column(name.replace(" ", "\n") if two_lines else name, justify="right", no_wrap=True)
    if beside:
        table.add_column("verdict", overflow="fold")
    below: list[Text] = []
    for line in _lines(manifest, component, benchmark):
        numbers = [[cell(benchmark, x) for cell in cells.values()] for x in line.latencies] if benchmark else []
        head = [line.name, line.precision, line.size, line.difference, *line.score[: len(scored)]]
        for row in numbers or [["-"] * len(cells)]:
            table.add_row(*head, *row, *([line.verdict] if beside and head[0] else []), style=line.style)
            head = [""] * len(head)
        if not beside:
            score, drop = line.score
            said = f"{metric} {score}{f', drop {drop}' if drop else ''}; " if score not in ("", "-") else ""
            if said or line.verdict:
                below.append(Text(with_flags(f"{line.name} {line.precision}: {said}{line.verdict}"), style=line.style))
    caption = f"{_caption(component, benchmark, width)} {_score_caption(manifest, component)}"
    return Group(table, *below, Text(caption, style="dim"), Text(""))


def gated_metric(manifest: Manifest) -> str:
    """The metric that tables show: the gate's first, else the task's primary; empty where the task was not scored."""
    scoring = manifest.scoring
    return next((m for m in manifest.gate.within if m in scoring.metrics), scoring.primary) if scoring else ""


def _score(manifest: Manifest, variant: Variant) -> tuple[str, str]:
    score = manifest.scoring.scores.get(variant.name) if manifest.scoring else None
    metric = gated_metric(manifest)
    if score is None or metric not in score.drops:
        return "-", "-"
    return f"{score.metrics[metric].value:.2f}", f"{score.drops[metric].value:.2f}"


def _score_caption(manifest: Manifest, component: Component) -> str:
    scoring = manifest.scoring
    if scoring is None:
        return "The task was not scored."
    others = [c.name for c in manifest.components if c.name != component.name]
    rest = f", with the reference's {' and '.join(others)}" if others else ""
    metric, against = gated_metric(manifest), reference_text(scoring.reference)
    measure = scoring.measure(metric)
    return (
        f"{metric} in {unit_text(measure)} on {data_text(scoring.data)}, {drop_text(measure)} against {against}{rest}."
        + (f" {decides_text(manifest.gate)}" if manifest.gate.confidence else "")
    )


def data_text(data: DataFacts) -> str:
    """A data set with its numbers of samples."""
    return f"{data.name} ({', '.join(f'{count:,} {what}' for what, count in data.samples.items())})"


def _lines(manifest: Manifest, component: Component, benchmark: Benchmark | None) -> Iterator[_Line]:
    """Peers first, then the variants."""
    if benchmark:
        for peer in _peers(manifest, benchmark):
            role = "the reference" if peer == benchmark.baseline else "a peer"
            score = _reference_score(manifest) if peer.precision == "fp32" else ("", "")
            role = _not_measured(benchmark, peer) or role
            yield _Line(entrant_text(peer), peer.precision, "", "", score, benchmark.of(peer), role, "dim")
    for variant in manifest.variants_of(component.name):
        size = size_text(manifest.size(variant)) if variant.files else "-"
        plain = Entrant(variant.name, variant.precision)
        latencies = benchmark.of(plain) if benchmark else ()
        verdict = _verdict(manifest, variant)
        style = "bold green" if verdict.startswith(_CHOSEN) else ""
        scores = _score(manifest, variant)
        needs = backend(variant.backend).needs
        name = f"{variant.backend} (needs {needs})" if needs else variant.backend
        yield _Line(name, variant.recipe, size, _difference(variant), scores, latencies, verdict, style)
        replaying = replace(plain, cuda_graph=True)
        graphed = benchmark.of(replaying) if benchmark else ()
        said = _not_measured(benchmark, replaying) if benchmark else ""
        if graphed or said:
            yield _Line(f"{variant.backend}{CUDA_GRAPH}", variant.recipe, "", "", ("", ""), graphed, said, style)


def _peers(manifest: Manifest, benchmark: Benchmark) -> list[Entrant]:
    """What was measured besides the bundle's variants, those that failed last."""
    ours = {variant.name for variant in manifest.variants}
    ran = [x.contender for x in benchmark.runtimes] + [x.contender for x in benchmark.failures]
    return [entrant for entrant in dict.fromkeys(ran) if entrant.name not in ours]


def _not_measured(benchmark: Benchmark, entrant: Entrant) -> str:
    failure = benchmark.failure_of(entrant)
    return f"not measured: {telling(failure.detail)}" if failure else ""


def _reference_score(manifest: Manifest) -> tuple[str, str]:
    scoring = manifest.scoring
    return (f"{scoring.metrics[gated_metric(manifest)].value:.2f}", "") if scoring else ("", "")


def _difference(variant: Variant) -> str:
    if variant.verification is None or not variant.verification.checks:
        return "-"
    return f"{variant.verification.worst.difference.max_scaled:.1e}"


def _verdict(manifest: Manifest, variant: Variant) -> str:
    if variant.failure:
        return f"not built: {telling(variant.failure)}"
    choice = manifest.choices.get(variant.component)
    why_not = choice.others.get(variant.name) if choice is not None else None
    said = verdict_text(why_not, choice.gate) if choice is not None and why_not is not None else ""
    if variant.verification is not None and not variant.verification.passed:
        refused = why_not is not None and why_not.refuses
        return said if refused else f"refused: {failure_text(variant.verification.failures[0])}"
    if choice is not None and choice.variant == variant.name:
        benchmark = manifest.benchmarks.get(variant.component)
        noisy = choice.gate.objective != "size" and benchmark is not None and benchmark.noisy_at(choice.batch)
        return f"{_CHOSEN}{CUDA_GRAPH * choice.cuda_graph}{f' (by times that are {_NOISY})' * noisy}"
    if said:
        return said
    return "not verified" if variant.verification is None else "verified"


def _caption(component: Component, benchmark: Benchmark | None, width: int) -> str:
    diff = "largest diff: at the goldens (calibrated: at samples), as a share of the output's largest magnitude."
    if benchmark is None:
        return diff
    others = {n: s for n, s in benchmark.latencies[0].sizes.items() if n != "batch"} if benchmark.latencies else {}
    at = "".join(f", {n} {s}" for n, s in others.items())
    interval = " with 95% interval" if width >= INTERVALS else ""
    over = f"; speed-up over {entrant_text(benchmark.baseline)}{interval}" if benchmark.baseline else ""
    return (
        f"median ms a call{at}, {benchmark.rounds} interleaved rounds, a process each, {benchmark.threads} threads"
        f"{over}. {_noise(benchmark, width)}{_on_gpu(benchmark)}{benchmark.machine}. {diff}"
    )


def _noise(benchmark: Benchmark, width: int) -> str:
    """What it means that times are noisy, and what to do; empty where none are."""
    if not benchmark.noisy_at(None):
        return ""
    mark = _NOISY if width >= INTERVALS else f"?: {_NOISY}"
    return with_flags(
        f"{mark[0].upper()}{mark[1:]}: the bounds of the interval are more than {NOISE:g} times apart. Measure again "
        "with more `rounds=`, while the machine does nothing else. "
    )


def _on_gpu(benchmark: Benchmark) -> str:
    """How a GPU was timed, and what it did meanwhile."""
    if all(x.copied is None for x in benchmark.latencies):
        return ""
    said = ["On the GPU median is by CUDA events, arrays in its memory; with copies is from and to arrays on the host."]
    return " ".join([*said, *map(conditions_text, benchmark.conditions)]) + " "


def conditions_text(seen: Conditions) -> str:
    """What a GPU did while it was measured, with a flag where that may have moved the times."""
    low, _, high = seen.clock
    cold, hot = seen.temperature
    said = moved_text(seen)
    moved = f" THE TIMES MAY HAVE MOVED: {said}." if said else ""
    return f"{seen.gpu}: {low}-{high} MHz, {cold}-{hot} C.{moved}"


def not_measured_lines(manifest: Manifest) -> Iterator[str]:
    """All that was said of each contender that has no times."""
    for component, benchmark in manifest.benchmarks.items():
        for failed in (*benchmark.failures, *benchmark.scaling.failures):
            yield f"{component}, {within(component, failed.contender)} was not measured: {failed.detail}"


def runtimes_table(manifest: Manifest) -> RenderableType:
    """What ran each contender of the benchmarks."""
    table = Table(title="what ran", title_justify="left", title_style="bold", box=None, show_header=False)
    for component, benchmark in manifest.benchmarks.items():
        for ran in benchmark.runtimes:
            table.add_row(component, within(component, ran.contender), ran.runtime)
    return table


def within(component: str, contender: Entrant) -> str:
    """A contender's name without the component's."""
    return entrant_text(contender).removeprefix(f"{component}/")


def reference_lines(component: str, benchmark: Benchmark) -> Iterator[str]:
    """The line that the benchmark script of Chinese-CLIP prints, one for each contender and batch."""
    for x in benchmark.latencies:
        yield (
            f"[{within(component, x.contender)} {component} inference speed (batch-size: {x.batch}):] "
            f"mean={x.mean:.2f}ms, sd={x.sd:.2f}ms, "
            f"min={x.min:.2f}ms, max={x.max:.2f}ms, median={x.median:.2f}ms, 95p={x.p95:.2f}ms, 99p={x.p99:.2f}ms"
        )


def doctor_table(report: Report) -> RenderableType:
    """The machine, and what works on it."""
    m = report.machine
    table = Table(box=None)
    for name in ("", "works", "precisions", "detail"):
        table.add_column(name)
    for finding in report.findings:
        remedy = f"\n{finding.state.remedy}" if finding.state.remedy and not finding.state.ok else ""
        table.add_row(
            finding.name,
            Text("yes", style="green") if finding.state.ok else Text("no", style="red"),
            ", ".join(finding.precisions) if finding.state.ok else "",
            Text(f"{finding.state.detail}{remedy}"),
        )
    return Group(Text(f"{m}; {', '.join(m.instructions)}; Python {report.python}"), Text(""), table)
