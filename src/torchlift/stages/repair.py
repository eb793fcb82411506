"""Finds the nodes whose conversion costs the accuracy, and moves them back to FP32 until the graph holds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torchlift.backends import BACKENDS, Backend, Session, SessionOptions, backend
from torchlift.bundle import Bundle
from torchlift.convert.forms import GRAPH, converter_of, made_in_parts
from torchlift.convert.search import EVALUATIONS, Finding, Search, bisect
from torchlift.errors import InputError
from torchlift.evidence import POINTS, Conversion, Damage, Gate, Repair
from torchlift.graph.units import Unit
from torchlift.machine import HERE, RunOn
from torchlift.manifest import Graph, Variant
from torchlift.messages import breach_text, failure_text
from torchlift.progress import SILENT, Progress
from torchlift.prove.half import HalfSession
from torchlift.prove.numerics import distance
from torchlift.prove.verify import VerifyOptions, judged_goldens, runs_here
from torchlift.stages.build import build_variant, verify_all
from torchlift.stages.convert import conversion_of, copy_goldens, put_graph
from torchlift.stages.score import Scorer, score_variant

_SEARCH_SHARE = 0.75
"""How much of the evaluations may go into finding the nodes; the rest proves the mended graph."""

_LEAST_SHARE = 0.5
"""A graph of which less than this stays converted is not worth mending."""


def tries(runtime: Backend) -> bool:
    """Whether a graph is tried in a runtime: not where that compiles it, each time anew for minutes."""
    return not (runtime.compiles or runtime.opens_graphs)


@dataclass(frozen=True)
class Trial:
    """What a graph in which only some nodes are converted loses.

    ``lost`` is how much worse the metric is, in its unit: 0 where the bootstrap cannot tell that from chance, and where
    there is no task; ``distance`` is 1 - the mean cosine between its answers and the reference's.
    """

    lost: float
    distance: float

    @property
    def damage(self) -> float:
        """Orders trials: by what is lost, and among equals by the distance, which is below 1 where anything works."""
        return self.lost + self.distance


class Workbench:
    """Tries graphs of one variant's form in the runtime that will run it, without looking inside: what a compiler fuses
    depends on which tensors are observed.

    FP16 that the runtime only emulates is tried in true half precision, on the smallest golden. Raises InputError for a
    variant without a graph that was converted node by node, or of a runtime that tries none.
    """

    def __init__(self, bundle: Bundle, variant: Variant, scorer: Scorer | None = None, on: RunOn = HERE) -> None:
        self.bundle = bundle
        self.variant = variant
        self.component = bundle.manifest.component(variant.component)
        graph = bundle.manifest.graph(variant.component, variant.form)
        source = bundle.model(self.component)
        made = graph is not None and not graph.failure
        converter = converter_of(variant.form, source, bundle.model(graph).parent) if graph and made else None
        if graph is None or converter is None:
            raise InputError(
                f"{variant.name} is not converted node by node",
                remedy="Bisect an INT8 or FP16 variant that torchlift converted: `torchlift inspect` lists them.",
            )
        if not tries(backend(variant.backend)):
            raise InputError(
                f"{variant.name} is not searched: each of many trials would be compiled for minutes",
                remedy=_instead(bundle, variant),
            )
        self.graph = graph
        self.converter = converter
        self.runtime = backend(variant.backend)
        self.emulated = self.runtime.recipe(variant.recipe).emulated
        self._scorer = None if self.emulated else scorer
        self._metric = metric_to_search(bundle, scorer)
        self._on = on

    @property
    def damage(self) -> Damage:
        """What :attr:`Trial.damage` is made of."""
        unit = self._scorer.measure(self._metric).unit if self._scorer else POINTS
        return Damage(self._metric if self._scorer else "", unit, self.runtime.name, self.emulated)

    def trial(self, converted: Sequence[Unit]) -> Trial:
        """What is lost where just ``converted`` are converted."""
        chosen = {unit.node for unit in converted}
        keep = {unit.node: "left out of this trial" for unit in self.converter.candidates if unit.node not in chosen}
        with self._session(keep) as session:
            return self._judge(session)

    @contextmanager
    def _session(self, keep: Mapping[str, str]) -> Iterator[Session]:
        signature = self.component.signature
        with tempfile.TemporaryDirectory(prefix="torchlift-") as temporary:
            graph, built = Path(temporary) / "graph", Path(temporary) / "built"
            for folder in (graph, built):
                folder.mkdir()
            self.converter.write(graph, keep)
            if self.emulated:
                yield HalfSession(graph / GRAPH, signature, self._on)
                return
            file = self.runtime.build(graph / GRAPH, built, signature)
            options = SessionOptions(self._on)
            with self.runtime.open(built / file, signature, self.variant.recipe, options) as session:
                yield session

    def _judge(self, session: Session) -> Trial:
        if self._scorer is None:
            return Trial(0.0, self._distance_at_goldens(session))
        answers = self._scorer.answers(self.component.name, session)
        lost = self._scorer.drop(self.component.name, answers, self._metric)
        return Trial(
            lost=max(lost.value, 0.0) if lost.low > 0 else 0.0,
            distance=self._scorer.distance(self.component.name, answers),
        )

    def _distance_at_goldens(self, session: Session) -> float:
        goldens = judged_goldens(self.bundle, self.variant)
        first = next(iter(goldens.values()))
        golden = first if self.emulated else goldens.get("opt", first)
        answers = session.run(golden.inputs)
        return max(distance(answers[name], expected) for name, expected in golden.outputs.items())


def _instead(bundle: Bundle, variant: Variant) -> str:
    """What can be searched in the place of a variant: another one of the same graph."""
    others = bundle.manifest.variants_of(variant.component)
    same = [o for o in others if o.form == variant.form and tries(backend(o.backend))]
    usable = [other.name for other in same if backend(other.backend).available().ok]
    if usable:
        return f"Bisect {usable[0]} instead: it has the same graph."
    makers = [
        f"`backends={name}` `precisions={recipe.name}`"
        for name in BACKENDS
        for recipe in backend(name).recipes.values()
        if recipe.form.name == variant.form and tries(backend(name))
    ]
    return f"Make a variant of the same graph and bisect that: torchlift build {bundle.path} {makers[0]}."


def find_culprits(bench: Workbench, evaluations: int, progress: Progress = SILENT) -> Search[Unit]:
    """Rank the nodes of a variant's graph by the damage that their conversion does."""
    with progress.stage(f"bisect {bench.variant.name}", evaluations) as stage:

        def damage(units: Sequence[Unit]) -> float:
            found = bench.trial(units).damage
            stage.advance()
            return found

        return bisect(bench.converter.candidates, damage, evaluations)


def metric_to_search(bundle: Bundle, scorer: Scorer | None) -> str:
    """What the search for culprits looks at: the gate's first metric, else the task's primary."""
    if scorer is None:
        return ""
    return next((metric for metric in bundle.manifest.gate.within if metric in scorer.outcomes), scorer.task.primary)


def repair(
    bundle: Bundle,
    variant: Variant,
    scorer: Scorer | None,
    fewer: Callable[[], Scorer | None],
    verify: VerifyOptions,
    evaluations: int = EVALUATIONS,
    progress: Progress = SILENT,
    *,
    on: RunOn = HERE,
) -> None:
    """Move the worst nodes of the variant's graph back to FP32, 1, 2, 4, ... sets of them, until it agrees with
    PyTorch and holds the gate, or half of the graph is spent, or ``evaluations`` graphs were tried.

    What disagrees with PyTorch is searched at the goldens, what breaks the gate on the samples of ``fewer``. The graph
    in the bundle is replaced, and every variant of a runtime that tries graphs; its conversion says what was done.
    """
    before = _problem(bundle, variant, scorer, bundle.manifest.gate)
    if not before or evaluations < 2:
        return
    bench = Workbench(bundle, variant, fewer() if before.on_task else None, on)
    search = find_culprits(bench, int(_SEARCH_SHARE * evaluations), progress)
    spent, count = search.evaluations, 1
    while spent < evaluations:
        worst = search.findings[:count]
        moved = {unit.node: _reason(finding) for finding in worst for unit in finding.items}
        if len(moved) > (1 - _LEAST_SHARE) * len(bench.converter.candidates):
            progress.note(f"{variant.name} is not mended: half of its nodes would have to stay FP32 ({before.said})")
            return
        problem, spent = _mend(bench, moved, search, scorer, verify, spent + 1, progress, on), spent + 1
        if not problem:
            progress.note(f"{variant.name} is mended by FP32 for {', '.join(_names(bench, moved))} ({before.said})")
            return
        if count >= len(search.findings):
            break
        count *= 2
    progress.note(f"{variant.name} is not mended within {evaluations} evaluations ({before.said})")


def _mend(
    bench: Workbench,
    moved: Mapping[str, str],
    search: Search[Unit],
    scorer: Scorer | None,
    verify: VerifyOptions,
    spent: int,
    progress: Progress,
    on: RunOn,
) -> _Problem | None:
    """Put the graph with ``moved`` in FP32 into the bundle, and say what is still wrong with the variant."""
    bundle, variant = bench.bundle, bench.variant
    rest = [unit for unit in bench.converter.candidates if unit.node not in moved]
    after = bench.trial(rest).damage

    assert bench.graph.conversion is not None
    calibration = bench.graph.conversion.calibration

    def make(folder: Path) -> Conversion:
        converted = bench.converter.write(folder, moved)
        copy_goldens(bundle, bundle.manifest.graph(variant.component, variant.form), folder)
        share = converted.count / (converted.count + len(converted.kept))
        record = Repair(tuple(moved), bench.damage, search.total, after, share, spent, held=False)
        return conversion_of(converted, calibration, record)

    graph = put_graph(bundle, bench.graph, make)
    component = bundle.manifest.component(variant.component)
    for other in bundle.manifest.variants_of(component.name):
        if other.form == variant.form and tries(backend(other.backend)) and backend(other.backend).available().ok:
            build_variant(bundle, component, other.backend, other.recipe, progress)
            if scorer is not None:
                scorer.forget(other)
    of_form = [v for v in bundle.manifest.variants_of(component.name) if v.form == variant.form]
    verify_all(bundle, [v for v in of_form if tries(backend(v.backend))], verify, progress, on=on)
    problem = _problem(bundle, bundle.manifest.variant(variant.name), scorer, bundle.manifest.gate)
    if not problem:
        _note_held(bundle, graph)
    return problem


def _note_held(bundle: Bundle, graph: Graph) -> None:
    conversion = graph.conversion
    assert conversion is not None
    assert conversion.repair is not None
    mended = replace(graph, conversion=replace(conversion, repair=replace(conversion.repair, held=True)))
    bundle.commit(bundle.manifest.with_graph(mended))


@dataclass(frozen=True)
class _Problem:
    """Why a variant may not serve, in words, and whether it is the task that it fails, or the goldens."""

    said: str
    on_task: bool


def _problem(bundle: Bundle, variant: Variant, scorer: Scorer | None, gate: Gate) -> _Problem | None:
    """Why a variant may not serve, where moving nodes back may help; None where it may serve."""
    if variant.failure or variant.verification is None or not made_in_parts(variant.form):
        return None
    if not variant.verification.checks:
        return None
    if any(failure.rests_on for failure in variant.verification.failures):
        return None  # FP32 itself is wrong in this runtime: no node is moved back to that
    if scorer is not None and runs_here(bundle, variant):
        score, scoring = score_variant(scorer, variant), bundle.manifest.scoring
        breach = gate.breach(score, scoring.measures if scoring else {})
        if breach is not None:
            return _Problem(breach_text(breach), on_task=True)
    proof = variant.verification
    return None if proof.passed else _Problem(failure_text(proof.failures[0]), on_task=False)


def _names(bench: Workbench, nodes: Mapping[str, str]) -> list[str]:
    """Nodes by the modules that they came from."""
    return list(dict.fromkeys(u.module or u.node for u in bench.converter.candidates if u.node in nodes))


def _reason(finding: Finding[Unit]) -> str:
    among = f"{len(finding.items)} nodes that together cost" if len(finding.items) > 1 else "alone it costs"
    return f"moved back: {among} {finding.damage:.3g}"
