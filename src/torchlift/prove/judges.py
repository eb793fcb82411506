"""Makes what judges the answers to a component: groups of columns, ties of whole numbers, and the usual tolerance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torchlift.bundle import Bundle
from torchlift.declare.answers import Answer, Raw, Span, TokenLabels
from torchlift.evidence import Tolerance
from torchlift.graph.steps import rounding_step
from torchlift.machine import HERE, RunOn
from torchlift.manifest import Component, Precision
from torchlift.prove.columns import columns_of
from torchlift.prove.goldens import Golden
from torchlift.prove.numerics import TOLERANCES, Judge, with_step
from torchlift.prove.ties import Ties
from torchlift.signature import Signature


def judge_of(
    bundle: Bundle, component: Component, goldens: Iterable[Golden], tolerance: Tolerance, on: RunOn = HERE
) -> Judge:
    """The judge of a component in a bundle. Where it has no graph, or one that may never end, no whole numbers tie."""
    source = bundle.model(component) if component.model and not bundle.may_loop(component) else None
    return judge_by(component.signature, component.answers, goldens, source, tolerance, on)


def judge_by(
    signature: Signature,
    answers: Mapping[str, Answer],
    goldens: Iterable[Golden],
    source: Path | None,
    tolerance: Tolerance,
    on: RunOn = HERE,
) -> Judge:
    """The judge of a component whose FP32 graph is in the file ``source``; without one no whole numbers tie."""
    columns = columns_of(signature, goldens, answers)
    masked = (Raw, Span, TokenLabels)
    masks = {name: answer.mask for name, answer in answers.items() if isinstance(answer, masked) and answer.mask}
    return Judge(columns, Ties(source, tolerance, on) if source is not None else None, tolerance, masks)


def usual_tolerance(source: Path, precision: Precision = "fp32") -> Tolerance:
    """What a variant may differ by default, of a component whose FP32 graph is in the file ``source``."""
    return with_step(TOLERANCES[precision], rounding_step(source))


def usual_tolerance_in(bundle: Bundle, component: Component, precision: Precision) -> Tolerance:
    """The same of a component in a bundle, whose graph is read once. Without a graph it is that of the precision."""
    if not component.model:
        return TOLERANCES[precision]
    digest = bundle.manifest.files[component.model].sha256
    if digest not in _STEPS:
        _STEPS[digest] = rounding_step(bundle.model(component))
    return with_step(TOLERANCES[precision], _STEPS[digest])


_STEPS: dict[str, float] = {}
"""The rounding steps of graphs by their SHA-256."""
