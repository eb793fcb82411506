"""Chooses for all components, so that what is chosen holds the gate together too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torchlift.bundle import Bundle
from torchlift.evidence import ROUNDING, Choice
from torchlift.stages.choose import choose
from torchlift.stages.score import Scorer, record_together


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
