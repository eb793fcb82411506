"""Facts of the evidence in the words of the tables."""

from __future__ import annotations

from torchlift.cli.words import visible
from torchlift.evidence import POINTS, Calibration, Conditions, Damage, Gate, Measure, Slowdown

_METHODS = {"nncf": "NNCF"}
"""Methods of finding ranges whose names are written in another way."""

_SLOWDOWNS: dict[Slowdown, str] = {
    "power limit": "power limit",
    "software temperature": "temperature (software)",
    "hardware": "hardware slow-down",
    "hardware temperature": "temperature (hardware)",
    "power brake": "power brake",
}


def calibration_text(calibration: Calibration | None) -> str:
    """For example: ``256 samples of muge/train, minmax``."""
    if calibration is None:
        return "none needed"
    method = _METHODS.get(calibration.method, calibration.method)
    source = "the goldens" if calibration.source is None else calibration.source
    return f"{calibration.samples} samples of {source}, {method}"


def damage_text(damage: Damage) -> str:
    """For example: ``points of top1 lost + 1 - cosine to the reference, in onnxruntime``."""
    where = "in true half precision" if damage.true_half else f"in {damage.runtime}"
    lost = f"{damage.unit} of {damage.metric} lost + " if damage.metric else ""
    return f"{lost}1 - cosine to the reference, {where}"


def moved_text(seen: Conditions) -> str:
    """What may have moved the times that were measured on a GPU; empty where nothing did."""
    low, _, high = seen.clock
    said = [f"the clock moved from {low} to {high} MHz"] if seen.clock_moved else []
    return ", ".join([*said, *(f"slowed down: {_SLOWDOWNS[reason]}" for reason in seen.throttled)])


def unit_text(measure: Measure) -> str:
    """The unit that a metric is shown in."""
    return "percent" if measure.unit == POINTS else visible(measure.unit)


def drop_text(measure: Measure) -> str:
    """What a drop is: by how much a metric falls or, where lower is better, rises; and in which unit."""
    return f"{'drop' if measure.better == 'higher' else 'rise'} in {visible(measure.unit)}"


def decides_text(gate: Gate) -> str:
    """Which number of a drop the gate goes by; empty without a gate."""
    if not gate.within:
        return ""
    if gate.confidence is None:
        return "The gate goes by the estimate of a drop."
    return f"The gate goes by what a drop is at {gate.confidence:g}% at most."
