"""Notes how a variant answers inputs beyond the goldens.

A runtime may treat them otherwise than PyTorch. For example the largest of a window with a NaN in it is NaN in PyTorch,
and a number in ONNX Runtime. Few models meet such inputs, so that a difference is a note. It is a failure only where
the bounds that the inputs declare include the values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from torchlift.backends import Session, backend
from torchlift.bundle import Bundle
from torchlift.errors import TorchliftError
from torchlift.evidence import Failure, FailureKind, Stress, StressNote, Tolerance
from torchlift.graph.units import Unit
from torchlift.machine import RunOn
from torchlift.manifest import Variant
from torchlift.prove.goldens import Golden
from torchlift.prove.inside import Inside
from torchlift.prove.numerics import compare
from torchlift.prove.origin import MOST_BYTES, MOST_NODES, Event, find_origin
from torchlift.prove.stress import STRESSES, included, load_stress

_ROUNDED = 1e-2
"""The share of the scale by which finite answers must differ in FP32 to be noted. Large inputs are rounded coarsely."""


def stress_notes(
    bundle: Bundle,
    variant: Variant,
    session: Session,
    goldens: Iterable[Golden],
    tolerance: Tolerance,
    on: RunOn,
) -> tuple[tuple[StressNote, ...], tuple[Failure, ...]]:
    """How a variant's answers differ at the component's samples of stress, and which of these are failures.

    Differences are shares of an output's largest magnitude, there or at the ``goldens``: that of zeros may be tiny.
    A lower precision is held to what is NaN or infinite alone: INT8 saturates, and need not know what it never meets.
    For FP32 the node that parts is looked for.
    """
    component = bundle.manifest.component(variant.component)
    if not component.model or bundle.may_loop(component):
        return (), ()
    notes: list[StressNote] = []
    wrong: list[Failure] = []
    precise = variant.precision == "fp32"
    samples, scales = load_stress(bundle, component), _scales(goldens)
    for sample in samples:
        strict = included(component.signature, sample)
        held_to = (tolerance if strict else _tolerance_of_notes(tolerance)) if precise else None
        found = compare_stress(session, sample, held_to, scales)
        notes += found
        wrong += [_failure(note, tolerance) for note in found if strict]
    if precise and any(note.nonfinite for note in notes):
        notes = [*_located(bundle, variant, samples, notes, on)]
    return tuple(notes), tuple(wrong)


def _scales(goldens: Iterable[Golden]) -> dict[str, float]:
    """The largest magnitude of each output over all goldens."""
    found: dict[str, float] = {}
    for golden in goldens:
        for name, output in golden.outputs.items():
            found[name] = max(found.get(name, 0.0), compare(output, output).scale)
    return found


def _failure(note: StressNote, tolerance: Tolerance) -> Failure:
    if note.detail:
        return Failure(kind="error", detail=note.detail)
    if note.nonfinite:
        return Failure(kind="nonfinite", golden=note.kind, output=note.output, nan=note.nan, inf=note.inf)
    kind: FailureKind = "differing" if note.whole else "difference"
    limit = tolerance.differing if note.whole else tolerance.scaled
    return Failure(kind=kind, golden=note.kind, output=note.output, difference=note.difference, limit=limit)


def _located(
    bundle: Bundle, variant: Variant, samples: Iterable[Golden], notes: Iterable[StressNote], on: RunOn
) -> Iterator[StressNote]:
    """The notes with the first node that makes NaN or infinite values, or loses them, in the variant's own runtime."""
    notes, component, runtime = tuple(notes), bundle.manifest.component(variant.component), backend(variant.backend)
    size = sum(bundle.manifest.files[path].size for path in bundle.manifest.files_of(component))
    feeds = {sample.name: sample.inputs for sample in samples}
    nodes: dict[tuple[Stress, Event], Unit | None] = {}
    wanted = dict.fromkeys((note.kind, _event(note)) for note in notes if note.nonfinite)
    with contextlib.suppress(TorchliftError):  # a note need not say where
        inside = Inside(bundle.model(component), component.signature)
        if len(inside.nodes) <= MOST_NODES and size <= MOST_BYTES:
            floats = [tensor for tensor in inside.tensors() if tensor.dtype.startswith("float")]
            with inside.open(runtime, variant.recipe, floats, on) as session:
                for kind, event in wanted:
                    values = {**feeds[kind], **session.run(feeds[kind])}
                    nodes[kind, event] = find_origin(inside.nodes, values, event)
    for note in notes:
        unit = nodes.get((note.kind, _event(note))) if note.nonfinite else None
        yield replace(note, node=unit.node, operator=unit.operator, module=unit.module) if unit else note


def _event(note: StressNote) -> Event:
    return "made" if note.nan + note.inf > note.nan_expected + note.inf_expected else "lost"


def _tolerance_of_notes(tolerance: Tolerance) -> Tolerance:
    """What FP32 may differ at stress before it is noted."""
    return Tolerance(max(tolerance.scaled, _ROUNDED), -1.0, max(tolerance.differing, _ROUNDED))


def compare_stress(
    session: Session, sample: Golden, tolerance: Tolerance | None, scales: Mapping[str, float]
) -> tuple[StressNote, ...]:
    """The outputs that differ from PyTorch's: in what is NaN or infinite, or with a ``tolerance`` in their values too.

    A NaN agrees with a NaN here. ``scales`` are the least scales of outputs by name.
    Nothing where the session does not run such sizes.
    """
    kind = next(kind for kind in STRESSES if kind == sample.name)
    if not session.covers(session.signature.check(sample.inputs)):
        return ()
    try:
        answers = session.run(sample.inputs)
    except TorchliftError as error:
        return (StressNote(kind, detail=error.message),)
    found = (
        _noted(kind, name, answers[name], expected, tolerance, scales.get(name, 0.0))
        for name, expected in sample.outputs.items()
    )
    return tuple(note for note in found if note is not None)


def _noted(
    kind: Stress, name: str, answer: np.ndarray, expected: np.ndarray, tolerance: Tolerance | None, scale: float
) -> StressNote | None:
    if answer.shape != expected.shape:
        return StressNote(kind, name, detail=f"its shape is {[*answer.shape]}, PyTorch's {[*expected.shape]}")
    both = np.isnan(answer) & np.isnan(expected) if expected.dtype.kind == "f" else np.zeros(expected.shape, bool)
    difference = compare(np.where(both, 0, answer), np.where(both, 0, expected))
    difference = replace(difference, scale=max(difference.scale, scale))
    off = tolerance is not None and (
        difference.differing > tolerance.differing * difference.elements
        if difference.elements
        else difference.max_scaled > tolerance.scaled
    )
    if not (difference.nonfinite_mismatch or off):
        return None
    theirs = compare(expected, expected)
    return StressNote(
        kind,
        name,
        nan=difference.nan + int(both.sum()),
        inf=difference.inf,
        nan_expected=theirs.nan,
        inf_expected=theirs.inf,
        difference=difference.max_scaled,
        nonfinite=difference.nonfinite_mismatch,
        whole=bool(difference.elements),
    )
