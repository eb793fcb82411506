"""Picks the variant of each component that serves: the best by the objective of those that agree and hold the gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from torchlift.bundle import Bundle
from torchlift.errors import BackendUnavailableError
from torchlift.evidence import GRAPHED, ROUNDING, Benchmark, Choice, Gate, Objective
from torchlift.machine import this_machine
from torchlift.manifest import Component, Variant
from torchlift.prove.verify import proven_here
from torchlift.stages.plan import RANKS
from torchlift.stages.score import Scorer, record_together, score_here

_TIE = 1.02
"""Variants whose costs are within this ratio are equally good: less than this a run cannot tell apart."""


@dataclass(frozen=True)
class _Costs:
    """What each variant that may serve costs by the objective: the lower the better, in ``unit``."""

    of: Mapping[str, float]
    unit: str
    best: str
    """How the least cost is praised."""


def choose(
    bundle: Bundle,
    component: Component,
    benchmark: Benchmark,
    excluded: Mapping[str, str] | None = None,
) -> Choice:
    """Pick the best proven variant that holds the bundle's gate, and say why not the others.

    Among those that are equally good (2%) the more precise wins, then the faster. Where none holds the gate, FP32
    serves, and the choice says so. ``excluded`` gives reasons of its own by variant name. Raises
    BackendUnavailableError where none can serve.
    """
    gate = bundle.manifest.gate
    ours = bundle.manifest.variants_of(component.name)
    proven = {v.name: v for v in ours if proven_here(bundle, v)}
    costs = _COSTS[gate.objective](bundle, benchmark, proven.values())
    if not costs.of:
        why = [f"{v.name}: {_why_not_measured(v, benchmark, proven)}" for v in ours]
        raise BackendUnavailableError(
            "; ".join([f"no variant of {component.name} can serve: none was both verified and measured", *why]),
            remedy=f"What was chosen before stays. Mend the cause, or see `torchlift inspect {bundle.path} --verbose`.",
        )
    refused = {**_breaches(bundle, ours, gate), **(excluded or {})}
    reserve = {v.name for v in ours if v.reserve}
    holding = {name: cost for name, cost in costs.of.items() if name not in refused and name not in reserve}
    winner = _winner(bundle, benchmark, holding or _fallback(bundle, costs.of, refused))
    reason = f"{costs.best} of those that agree with PyTorch" + (f" and hold {gate}" if gate.within else "")
    choice = Choice(
        variant=winner,
        reason=reason if holding else f"none of what was asked for holds {gate}: FP32 serves",
        others={
            v.name: _why_not(v, costs, winner, refused, reserve, proven, benchmark) for v in ours if v.name != winner
        },
        held=bool(holding),
        cuda_graph=_fastest_mode(benchmark, winner, gate.objective).endswith(GRAPHED),
    )
    bundle.commit(replace(bundle.manifest, choices={**bundle.manifest.choices, component.name: choice}))
    return choice


def _breaches(bundle: Bundle, variants: Collection[Variant], gate: Gate) -> dict[str, str]:
    """Variant name -> why it does not hold the gate. Of FP32 that agrees with PyTorch it is known without a score."""
    if not gate.within:
        return {}
    found = {}
    for variant in variants:
        score = score_here(bundle, variant)
        if score is None and variant.precision != "fp32" and proven_here(bundle, variant):
            found[variant.name] = f"not scored here: {gate} is not known to hold"
        elif score is not None and (breach := gate.breach(score)):
            found[variant.name] = breach
    return found


def _fallback(bundle: Bundle, costs: Mapping[str, float], refused: Mapping[str, str]) -> dict[str, float]:
    """The FP32 variants, which agree with PyTorch. Raises BackendUnavailableError where there is none."""
    found = {n: c for n, c in costs.items() if bundle.manifest.variant(n).precision == "fp32"}
    if not found:
        said = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise BackendUnavailableError(
            f"no variant may serve, and FP32 was not made or measured ({said})",
            remedy="Build fp32 too, or allow a larger drop with --within.",
        )
    return found


def _winner(bundle: Bundle, benchmark: Benchmark, costs: Mapping[str, float]) -> str:
    bar = _TIE * min(costs.values())
    tied = [name for name, cost in costs.items() if cost <= bar]
    return min(tied, key=lambda n: (RANKS[bundle.manifest.variant(n).precision], _time(benchmark, n)))


def _median(benchmark: Benchmark, contender: str) -> float:
    found = benchmark.at_batch(contender, _decisive(benchmark))
    return found.median if found else float("inf")


def _time(benchmark: Benchmark, variant: str) -> float:
    """The median time of the variant as it is fastest, at the batch that decides."""
    return min(_median(benchmark, mode) for mode in benchmark.modes_of(variant))


def _fastest_mode(benchmark: Benchmark, variant: str, objective: Objective) -> str:
    """The contender as which the variant is best: as it is, or replaying CUDA graphs."""
    cost = _time_a_sample if objective == "throughput" else _median
    return min(benchmark.modes_of(variant), key=lambda name: cost(benchmark, name))


def _time_a_sample(benchmark: Benchmark, contender: str) -> float:
    return 1 / max(x.throughput for x in benchmark.of(contender))


def _decisive(benchmark: Benchmark) -> int:
    return benchmark.latencies[0].batch if benchmark.latencies else 0


def _by_latency(bundle: Bundle, benchmark: Benchmark, variants: Collection[Variant]) -> _Costs:
    batch = _decisive(benchmark)
    found = {v.name: _time(benchmark, v.name) for v in _measured(bundle, benchmark, variants)}
    found = {name: time for name, time in found.items() if time < math.inf}
    return _Costs(found, "the time", f"the fastest at batch {batch}")


def _by_throughput(bundle: Bundle, benchmark: Benchmark, variants: Collection[Variant]) -> _Costs:
    found = {
        v.name: min(_time_a_sample(benchmark, mode) for mode in benchmark.modes_of(v.name))
        for v in _measured(bundle, benchmark, variants)
    }
    return _Costs(found, "the time a sample", "the highest throughput")


def _by_size(bundle: Bundle, benchmark: Benchmark, variants: Collection[Variant]) -> _Costs:
    found = {v.name: float(bundle.manifest.size(v)) for v in _measured(bundle, benchmark, variants)}
    return _Costs(found, "the size", "the smallest")


_COSTS: dict[Objective, Callable[[Bundle, Benchmark, Collection[Variant]], _Costs]] = {
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
        if v.name not in benchmark.failures
        and benchmark.modes_of(v.name)
        and all(benchmark.files.get(path, digest) == digest for path, digest in bundle.manifest.hashes(v.files).items())
    ]


def _why_not(
    variant: Variant,
    costs: _Costs,
    winner: str,
    refused: Mapping[str, str],
    reserve: Collection[str],
    proven: Collection[str],
    benchmark: Benchmark,
) -> str:
    if variant.name in refused and not variant.failure and variant.name not in benchmark.failures:
        return f"refused: {refused[variant.name]}"
    if variant.name not in costs.of:
        return _why_not_measured(variant, benchmark, proven)
    if variant.name in reserve:
        return "not asked for: kept for where no other holds the gate"
    ratio = costs.of[variant.name] / costs.of[winner]
    return f"{ratio:.2f} times {costs.unit}" if ratio > _TIE else f"as good within {_TIE - 1:.0%}, not more precise"


def _why_not_measured(variant: Variant, benchmark: Benchmark, proven: Collection[str]) -> str:
    if variant.failure:
        return f"not built: {variant.failure}"
    if variant.name in benchmark.failures:
        return f"not measured: {benchmark.failures[variant.name]}"
    if variant.verification is not None and not variant.verification.passed:
        return f"refused: {variant.verification.failures[0]}"
    return "not measured" if variant.name in proven else "not verified on this machine"


def choose_all(bundle: Bundle, scorer: Scorer | None = None) -> None:
    """Choose for every component among what was measured, and score the choices together.

    Where each holds the gate and together they do not, the one that loses most by itself makes room for the next best.
    Without a scorer, choices that were not scored together before are taken to lose the sum of what each loses.
    The choices of before stay where none can be made for a component.
    """
    before, excluded = bundle.manifest.choices, dict[str, str]()
    with bundle.together():
        while True:
            benchmarks = bundle.manifest.benchmarks
            choices = {c.name: choose(bundle, c, benchmarks[c.name], excluded) for c in bundle.manifest.components}
            breach = _breach_together(bundle, scorer, before, choices)
            worst = _worst(bundle, choices) if breach else None
            if worst is None:
                return
            excluded[worst] = f"with the other components' choices, {breach}"


def _breach_together(
    bundle: Bundle, scorer: Scorer | None, before: Mapping[str, Choice], now: Mapping[str, Choice]
) -> str:
    """Why choices may not serve together; notes their score, or that there is none."""
    gate = bundle.manifest.gate
    if scorer is not None:
        variants = {name: bundle.manifest.variant(choice.variant) for name, choice in now.items()}
        return gate.breach(record_together(scorer, variants))
    scoring = bundle.manifest.scoring
    if scoring is None or {n: c.variant for n, c in before.items()} == {n: c.variant for n, c in now.items()}:
        return ""
    bundle.commit(replace(bundle.manifest, scoring=replace(scoring, together=None)))
    for metric, limit in gate.within.items():
        drops = [scoring.scores[c.variant].drops for c in now.values() if c.variant in scoring.scores]
        lost = [drop[metric].value for drop in drops if metric in drop]
        if sum(lost) > limit + ROUNDING and len(lost) > 1:
            return f"{metric} may drop by {sum(lost):.2f} (the sum), at most {limit:g} may"
    return ""


def _worst(bundle: Bundle, choices: Mapping[str, Choice]) -> str | None:
    """The chosen variant that loses most by itself, as a share of what may be lost; None where none loses anything."""
    scores = bundle.manifest.scoring.scores if bundle.manifest.scoring else {}
    limits = bundle.manifest.gate.within

    def loss(name: str) -> float:
        drops = scores[name].drops
        return max((drops[m].value / max(limit, 1e-6) for m, limit in limits.items() if m in drops), default=0.0)

    lossy = [choice.variant for choice in choices.values() if choice.held and choice.variant in scores]
    worst = max(lossy, key=loss, default=None)
    return worst if worst is not None and loss(worst) > 0 else None
