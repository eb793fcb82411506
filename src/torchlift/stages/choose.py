"""Picks the variant of each component that serves: the best by the objective of those that agree and hold the gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from torchlift.bundle import Bundle
from torchlift.errors import BackendUnavailableError, telling
from torchlift.evidence import Benchmark, Breach, Choice, Entrant, Gate, Objective, Verdict
from torchlift.evidence.accuracy import ROUNDING
from torchlift.machine import this_machine
from torchlift.manifest import Component, Variant
from torchlift.messages import entrant_text, refusal_text, verdict_text
from torchlift.prove.verify import proven_here
from torchlift.stages.plan import RANKS
from torchlift.stages.score import Scorer, record_together, score_here

_TIE = 1.02
"""Variants whose costs are within this ratio are equally good: less than this a run cannot tell apart."""


Costs = dict[str, float]
"""What each variant that may serve costs by the objective: the lower the better."""


def choose(
    bundle: Bundle,
    component: Component,
    benchmark: Benchmark,
    excluded: Mapping[str, Breach] | None = None,
) -> Choice:
    """Pick the best proven variant that holds the bundle's gate, and say why not the others.

    Among those that are equally good (2%) the more precise wins, then the faster. Where none holds the gate, FP32
    serves, and the choice says so. ``excluded`` are breaches by variant name that are known besides. Raises
    BackendUnavailableError where none can serve.
    """
    gate = bundle.manifest.gate
    ours = bundle.manifest.variants_of(component.name)
    proven = {v.name: v for v in ours if proven_here(bundle, v)}
    costs = _COSTS[gate.objective](bundle, benchmark, proven.values())
    if not costs:
        why = [f"{v.name}: {verdict_text(_why_not_measured(v, benchmark, proven), gate)}" for v in ours]
        names = {v.name for v in ours}
        peers = [failed for failed in benchmark.failures if failed.contender.name not in names]
        why += [f"{entrant_text(failed.contender)}: not measured: {telling(failed.detail)}" for failed in peers]
        raise BackendUnavailableError(
            "; ".join([f"no variant of {component.name} can serve: none was both verified and measured", *why]),
            remedy=f"What was chosen before stays. Mend the cause, or see `torchlift inspect {bundle.path}`.",
        )
    refused = {**_refused(bundle, ours, gate), **{n: Verdict("breach", breach=b) for n, b in (excluded or {}).items()}}
    reserve = {v.name for v in ours if v.reserve}
    holding = {name: cost for name, cost in costs.items() if name not in refused and name not in reserve}
    winner = _winner(bundle, benchmark, holding or _fallback(bundle, costs, refused))
    choice = Choice(
        variant=winner,
        gate=gate,
        batch=_decisive(benchmark) if gate.objective == "latency" else None,
        others={
            v.name: _why_not(v, costs, winner, refused, reserve, proven, benchmark) for v in ours if v.name != winner
        },
        held=bool(holding),
        cuda_graph=_fastest_mode(benchmark, winner, gate.objective).cuda_graph,
    )
    bundle.commit(replace(bundle.manifest, choices={**bundle.manifest.choices, component.name: choice}))
    return choice


def _refused(bundle: Bundle, variants: Collection[Variant], gate: Gate) -> dict[str, Verdict]:
    """Variant name -> why it does not hold the gate. Of FP32 that agrees with PyTorch it is known without a score."""
    if not gate.within:
        return {}
    found = {}
    scoring = bundle.manifest.scoring
    for variant in variants:
        score = score_here(bundle, variant)
        if score is None and variant.precision != "fp32" and proven_here(bundle, variant):
            found[variant.name] = Verdict("not scored")
        elif scoring and score and (breach := gate.breach(score, scoring.measures)):
            found[variant.name] = Verdict("breach", breach=breach)
    return found


def _fallback(bundle: Bundle, costs: Costs, refused: Mapping[str, Verdict]) -> Costs:
    """The FP32 variants, which agree with PyTorch. Raises BackendUnavailableError where there is none."""
    found = {n: c for n, c in costs.items() if bundle.manifest.variant(n).precision == "fp32"}
    if not found:
        gate = bundle.manifest.gate
        said = "; ".join(f"{name}: {refusal_text(verdict, gate)}" for name, verdict in refused.items())
        raise BackendUnavailableError(
            f"no variant may serve, and FP32 was not made or measured ({said})",
            remedy="Build fp32 too, or allow a larger drop with `within=`.",
        )
    return found


def _winner(bundle: Bundle, benchmark: Benchmark, costs: Costs) -> str:
    bar = _TIE * min(costs.values())
    tied = [name for name, cost in costs.items() if cost <= bar]
    return min(tied, key=lambda n: (RANKS[bundle.manifest.variant(n).precision], _time(benchmark, n)))


def _median(benchmark: Benchmark, contender: Entrant) -> float:
    found = benchmark.at_batch(contender, _decisive(benchmark))
    return found.median if found else float("inf")


def _time(benchmark: Benchmark, variant: str) -> float:
    """The median time of the variant as it is fastest, at the batch that decides."""
    return min(_median(benchmark, mode) for mode in benchmark.modes_of(variant))


def _fastest_mode(benchmark: Benchmark, variant: str, objective: Objective) -> Entrant:
    """The contender as which the variant is best: as it is, or replaying CUDA graphs."""
    cost = _time_a_sample if objective == "throughput" else _median
    return min(benchmark.modes_of(variant), key=lambda mode: cost(benchmark, mode))


def _time_a_sample(benchmark: Benchmark, contender: Entrant) -> float:
    return 1 / max(x.throughput for x in benchmark.of(contender))


def _decisive(benchmark: Benchmark) -> int:
    return benchmark.latencies[0].batch if benchmark.latencies else 0


def _by_latency(bundle: Bundle, benchmark: Benchmark, variants: Collection[Variant]) -> Costs:
    found = {v.name: _time(benchmark, v.name) for v in _measured(bundle, benchmark, variants)}
    return {name: time for name, time in found.items() if time < math.inf}


def _by_throughput(bundle: Bundle, benchmark: Benchmark, variants: Collection[Variant]) -> Costs:
    return {
        v.name: min(_time_a_sample(benchmark, mode) for mode in benchmark.modes_of(v.name))
        for v in _measured(bundle, benchmark, variants)
    }


def _by_size(bundle: Bundle, benchmark: Benchmark, variants: Collection[Variant]) -> Costs:
    return {v.name: float(bundle.manifest.size(v)) for v in _measured(bundle, benchmark, variants)}


_COSTS: dict[Objective, Callable[[Bundle, Benchmark, Collection[Variant]], Costs]] = {
    "latency": _by_latency,
    "throughput": _by_throughput,
    "size": _by_size,
}


def _measured(bundle: Bundle, benchmark: Benchmark, variants: Collection[Variant]) -> list[Variant]:
    """Those that were measured on this machine with the files that they have now."""
    if not benchmark.machine.runs_like(this_machine()) or benchmark.machine.gpus != this_machine().gpus:
        return []
    return [
        v
        for v in variants
        if benchmark.failure_as_it_is(v.name) is None
        and benchmark.modes_of(v.name)
        and all(benchmark.files.get(path, digest) == digest for path, digest in bundle.manifest.hashes(v.files).items())
    ]


def _why_not(
    variant: Variant,
    costs: Costs,
    winner: str,
    refused: Mapping[str, Verdict],
    reserve: Collection[str],
    proven: Collection[str],
    benchmark: Benchmark,
) -> Verdict:
    if variant.name in refused and not variant.failure and benchmark.failure_as_it_is(variant.name) is None:
        return refused[variant.name]
    if variant.name not in costs:
        return _why_not_measured(variant, benchmark, proven)
    if variant.name in reserve:
        return Verdict("reserve")
    ratio = costs[variant.name] / costs[winner]
    return Verdict("costlier" if ratio > _TIE else "as good", ratio)


def _why_not_measured(variant: Variant, benchmark: Benchmark, proven: Collection[str]) -> Verdict:
    if variant.failure:
        return Verdict("not built", detail=variant.failure)
    failed = benchmark.failure_as_it_is(variant.name)
    if failed is not None:
        return Verdict("not measured", detail=failed.detail)
    if variant.verification is not None and not variant.verification.passed:
        return Verdict("disagrees", failure=variant.verification.failures[0])
    return Verdict("not measured" if variant.name in proven else "not verified")


def choose_all(bundle: Bundle, scorer: Scorer | None = None) -> None:
    """Choose for every component among what was measured, and score the choices together.

    Where each holds the gate and together they do not, the one that loses most by itself makes room for the next best.
    Without a scorer, choices that were not scored together before are taken to lose the sum of what each loses.
    The choices of before stay where none can be made for a component.
    """
    before, excluded = bundle.manifest.choices, dict[str, Breach]()
    with bundle.together():
        while True:
            benchmarks = bundle.manifest.benchmarks
            choices = {c.name: choose(bundle, c, benchmarks[c.name], excluded) for c in bundle.manifest.components}
            breach = _breach_together(bundle, scorer, before, choices)
            worst = _worst(bundle, choices) if breach else None
            if breach is None or worst is None:
                return
            excluded[worst] = breach


def _breach_together(
    bundle: Bundle, scorer: Scorer | None, before: Mapping[str, Choice], now: Mapping[str, Choice]
) -> Breach | None:
    """Why choices may not serve together; notes their score, or that there is none."""
    gate = bundle.manifest.gate
    if scorer is not None:
        variants = {name: bundle.manifest.variant(choice.variant) for name, choice in now.items()}
        score, together = record_together(scorer, variants), bundle.manifest.scoring
        breach = gate.breach(score, together.measures if together else {})
        return replace(breach, components="all") if breach else None
    scoring = bundle.manifest.scoring
    if scoring is None or {n: c.variant for n, c in before.items()} == {n: c.variant for n, c in now.items()}:
        return None
    bundle.commit(replace(bundle.manifest, scoring=replace(scoring, together=None)))
    for metric, limit in gate.within.items():
        drops = [scoring.scores[c.variant].drops for c in now.values() if c.variant in scoring.scores]
        lost = [gate.bound(drop[metric]) for drop in drops if metric in drop]
        if sum(lost) > limit + ROUNDING and len(lost) > 1:
            measure = scoring.measure(metric)
            return Breach(metric, limit, None, sum(lost), gate.confidence, measure, components="sum")
    return None


def _worst(bundle: Bundle, choices: Mapping[str, Choice]) -> str | None:
    """The chosen variant that loses most by itself, as a share of what may be lost; None where none loses anything."""
    scores = bundle.manifest.scoring.scores if bundle.manifest.scoring else {}
    gate = bundle.manifest.gate

    def loss(name: str) -> float:
        drops = scores[name].drops
        shares = (gate.bound(drops[m]) / max(limit, 1e-6) for m, limit in gate.within.items() if m in drops)
        return max(shares, default=0.0)

    lossy = [choice.variant for choice in choices.values() if choice.held and choice.variant in scores]
    worst = max(lossy, key=loss, default=None)
    return worst if worst is not None and loss(worst) > 0 else None
