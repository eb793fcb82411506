"""Evidence in words: for the messages of exceptions, for notes, and for the tables of the command line."""

from __future__ import annotations

from dataclasses import replace

from torchlift.errors import telling
from torchlift.evidence import (
    Breach,
    Entrant,
    Failure,
    Gate,
    GoldenCheck,
    GoldenRun,
    Objective,
    Reference,
    StressNote,
    Verdict,
)

_COMPANY = {"alone": "", "turned": ", rows turned", "fewer": ", rows fewer"}

_COST: dict[Objective, str] = {"latency": "the time", "throughput": "the time a sample", "size": "the size"}
"""What a ratio of costs is of, by the objective."""

CUDA_GRAPH = " + CUDA graph"
"""What follows the name of a contender that replays CUDA graphs."""


_STRESS: dict[str, str] = {
    "large": "floats 100 times larger",
    "nan": "NaN in one element",
    "infinite": "infinity in one element",
    "zero": "all floats zero",
    "masked": "no token in one row",
}
"""Kinds of inputs beyond the goldens."""


def stress_text(note: StressNote) -> str:
    """For example: ``NaN in one element: y has 0 NaN and 0 infinite values, PyTorch's 24 and 0 (MaxPool of pool)``."""
    where = f" ({note.operator} of {note.module or note.node} is the first that parts)" if note.operator else ""
    if note.detail:
        return f"{_STRESS[note.kind]}: {note.output + ': ' if note.output else ''}{note.detail}"
    if not note.nonfinite:
        off = (
            f"{note.difference:.2%} of {note.output} differ"
            if note.whole
            else (f"{note.output} is off by {note.difference:.1e} of the scale")
        )
        return f"{_STRESS[note.kind]}: {off}"
    ours, theirs = f"{note.nan} NaN and {note.inf}", f"{note.nan_expected} and {note.inf_expected}"
    return f"{_STRESS[note.kind]}: {note.output} has {ours} infinite values, PyTorch's {theirs}{where}"


def run_text(run: GoldenRun) -> str:
    """For example: ``opt``; ``max, 4 of 8 rows, replayed``; ``batch 3, sequence 16``."""
    said = ", ".join(f"{axis} {size}" for axis, size in run.sizes.items()) or _STRESS.get(run.golden, run.golden)
    if run.rows is not None:
        taken, there = run.rows.taken, run.rows.there
        said += f", {taken} of {there} rows" if taken < there else f", {there} rows repeated to {taken}"
    said += _COMPANY[run.company] + ", replayed" * run.replayed
    return said + " in true half precision" * run.true_half


def columns_text(part: GoldenCheck | Failure) -> str:
    """Columns of an output, such as ``[..., 4]``, ``[..., 0:4 and 6]`` or ``[:, 0:4]``; empty for a whole output."""
    said = [str(first) if behind == first + 1 else f"{first}:{behind}" for first, behind in part.columns]
    before = "..., " if part.axis < 0 else ":, " * part.axis
    return f"[{before}{' and '.join(said)}]" if said else ""


def failure_text(failure: Failure) -> str:
    """For example: ``y at min: off by 1.2e-02 of the scale (at most 1e-04)``."""
    if failure.rests_on:
        said = "cannot be run" if failure.kind == "error" else "is wrong"
        return f"{failure.rests_on} of the same graph {said}: {failure_text(replace(failure, rests_on=''))}"
    if failure.kind == "error":
        return telling(failure.detail)
    if failure.kind == "unproven":
        return "no golden is within its optimisation profiles: nothing proves it"
    where = f"{failure.output}{columns_text(failure)} at {run_text(failure)}"
    if failure.kind == "nonfinite":
        said = f"{where}: {failure.nan} NaN, {failure.inf} infinite"
    elif failure.kind == "differing":
        share, limit = 100 * (failure.difference or 0), 100 * (failure.limit or 0)
        said = f"{where}: {share:.3g}% of the elements differ, at no near tie (at most {limit:g}%)"
    elif failure.kind == "difference":
        said = f"{where}: off by {failure.difference:.1e} of the scale (at most {failure.limit:.0e})"
    else:
        said = f"{where}: cosine {failure.difference:.5f} (at least {failure.limit})"
    return said if failure.company == "alone" else f"rows depend on their neighbours: {said}"


def breach_text(breach: Breach) -> str:
    """For example: ``top1 drops by 3.25 [2.25, 4.25], at most 2 may``."""
    said = _breach_text(breach)
    return said if breach.components == "one" else f"with the other components' choices, {said}"


def _breach_text(breach: Breach) -> str:
    if breach.bound is None:
        return f"{breach.metric} was not scored"
    worse = "drop" if breach.measure.better == "higher" else "rise"
    unit = "" if breach.measure.unit == "points" else f" {breach.measure.unit}"
    limit = f"at most {breach.limit:g}{unit} may"
    at = "" if breach.confidence is None else f" at {breach.confidence:g}%"
    if breach.drop is None:
        return f"{breach.metric} may {worse} by {breach.bound:.2f}{unit} (the sum{at}), {limit}"
    if not at:
        return f"{breach.metric} {worse}s by {breach.drop}{unit}, {limit}"
    estimate = f"(estimate {breach.drop.value:.2f})"
    return f"{breach.metric}: {worse}{at} at most {breach.bound:.2f}{unit} {estimate}, {limit}"


def verdict_text(verdict: Verdict, gate: Gate) -> str:
    """Why a variant does not serve under a gate, for example: ``1.50 times the time``."""
    match verdict.kind:
        case "costlier":
            return f"{verdict.ratio:.2f} times {_COST[gate.objective]}"
        case "as good":
            return "as good within 2%, not more precise"
        case "reserve":
            return "not asked for: kept for where no other holds the gate"
        case "breach" | "not scored" | "disagrees":
            return f"refused: {refusal_text(verdict, gate)}"
        case "not verified":
            return "not verified on this machine"
        case "other":
            return verdict.detail
    return f"{verdict.kind}: {telling(verdict.detail)}" if verdict.detail else verdict.kind


def refusal_text(verdict: Verdict, gate: Gate) -> str:
    """The same of a variant that breaks the gate, may break it, or disagrees with PyTorch."""
    if verdict.breach is not None:
        return breach_text(verdict.breach)
    if verdict.failure is not None:
        return failure_text(verdict.failure)
    return f"not scored here: {gate} is not known to hold"


def reference_text(reference: Reference) -> str:
    """What drops are against."""
    return "PyTorch FP32" if reference == "pytorch" else "the FP32 graph in ONNX Runtime"


def entrant_text(entrant: Entrant) -> str:
    """For example: ``text/tensorrt/fp16 + CUDA graph``; ``pytorch compile fp16``."""
    said = entrant.name
    if entrant.compiled is not None:
        said += " compile" if entrant.compiled else " eager"
        said += "" if entrant.precision == "fp32" else f" {entrant.precision}"
    return said + CUDA_GRAPH * entrant.cuda_graph
