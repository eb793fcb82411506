"""The metrics that a caller asks for, for data in memory: by name, as functions, or as objects of torchmetrics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from torchlift.errors import InputError, MetricError
from torchlift.evidence import Direction
from torchlift.tasks.base import Metric
from torchlift.tasks.metrics import METRICS, UNITS, known

Asked = Sequence[Any] | Mapping[str, Any]
"""``["top1", f, Accuracy(...)]`` or ``{"mine": f}``."""

_REMEDY = f"Use {', '.join(METRICS)}, or give a function of (outputs, targets): metrics={{'mine': function}}."


def metrics_of(asked: Asked, within: Iterable[str] = ()) -> tuple[Metric, ...]:
    """The metrics to score: those of ``within`` first, since the first is the primary one.

    Raises MetricError for a name that there is not, InputError for what is no metric.
    """
    if isinstance(asked, str):
        raise InputError(f"metrics= is the string {asked!r}", remedy=f"Give a list: metrics=[{asked!r}].")
    named = asked.items() if isinstance(asked, Mapping) else ((_name_of(value), value) for value in asked)
    given = {name: _metric(name, value) for name, value in named}
    found = {name: given.get(name) or _metric(name, name) for name in within}
    return tuple({**found, **given}.values())


def collated(rows: Sequence[Any]) -> Any:
    """Samples as a whole: an array [rows, ...] of numbers and of arrays of one shape, dicts and tuples part by part;
    anything else stays a list.
    """
    first = rows[0]
    if isinstance(first, dict) and all(isinstance(row, dict) and row.keys() == first.keys() for row in rows):
        return {key: collated([row[key] for row in rows]) for key in first}
    if isinstance(first, tuple) and all(isinstance(row, tuple) and len(row) == len(first) for row in rows):
        return tuple(collated(part) for part in zip(*rows, strict=True))
    arrays = [array for row in rows if (array := _numbers(row)) is not None]
    if len(arrays) == len(rows) and len({array.shape for array in arrays}) == 1:
        return np.stack(arrays)
    return list(rows)


def _numbers(row: Any) -> np.ndarray | None:
    """An array of numbers; None for what holds anything else."""
    if not isinstance(row, (np.ndarray, np.generic, bool, int, float, list)):
        return None
    try:
        array = np.asarray(row)
    except ValueError:  # rows of different lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def outcomes_of(metric: Metric, outputs: Any, other: Any, count: int) -> np.ndarray:
    """The outcomes of a metric with a row a sample. Raises MetricError where its function fails, or gives neither a
    number nor one for each sample.
    """
    assert metric.function is not None
    try:
        found = np.asarray(metric.function(outputs, other))
    except MetricError:
        raise
    except Exception as error:  # the code of whoever wrote it
        raise MetricError(
            f"{metric.name} failed: {type(error).__name__}: {error}",
            remedy=f"It gets outputs, {_said(outputs)}, and {metric.against}, {_said(other)}.",
            metric=metric.name,
        ) from error
    if isinstance(metric.whole, _Whole) and not found.ndim and found.dtype.kind in "biuf":
        return _paired(outputs, other, count)
    if found.dtype.kind not in "biuf" or not found.ndim or len(found) != count:
        raise MetricError(
            f"{metric.name} gives {_said(found)} of {count:,} samples",
            remedy=f"Let it give one number, or a number for each sample: float64 [{count}].",
            metric=metric.name,
        )
    return found.astype(np.float64)


@dataclass(frozen=True)
class _Whole:
    """A function of a caller's as the figure of some samples: the mean of outcomes where it gives one for each sample,
    else what it gives of the samples' outputs and targets together.
    """

    function: Callable[[Any, Any], Any]

    def __call__(self, outcomes: np.ndarray) -> float:
        if outcomes.dtype != object:
            return float(outcomes.mean())
        outputs, others = zip(*outcomes, strict=True)
        return float(self.function(collated(outputs), collated(others)))


@dataclass(frozen=True)
class _Computed:
    """An object with ``update(outputs, targets)``, ``compute()`` and ``reset()``, as torchmetrics has them."""

    metric: Any

    def __call__(self, outputs: Any, targets: Any) -> float:
        self.metric.reset()
        self.metric.update(_tensors(outputs), _tensors(targets))
        return float(self.metric.compute())


def _tensors(value: Any) -> Any:
    """Arrays as tensors, where whoever made the metric brought torch along."""
    torch = sys.modules.get("torch")
    if isinstance(value, dict):
        return {key: _tensors(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_tensors, value))
    return torch.from_numpy(np.ascontiguousarray(value)) if torch and isinstance(value, np.ndarray) else value


def _paired(outputs: Any, others: Any, count: int) -> np.ndarray:
    """Outputs and targets of each sample side by side: object [samples], of which the bootstrap draws."""
    found = np.empty(count, object)
    for row, pair in enumerate(zip(_rows(outputs, count), _rows(others, count), strict=True)):
        found[row] = pair
    return found


def _rows(value: Any, count: int) -> list[Any]:
    """What :func:`collated` was given."""
    if isinstance(value, dict):
        parts = {key: _rows(part, count) for key, part in value.items()}
        return [{key: rows[row] for key, rows in parts.items()} for row in range(count)]
    if isinstance(value, tuple):
        return [*zip(*(_rows(part, count) for part in value), strict=True)]
    return [*value]


def _name_of(value: Any) -> str:
    """What a metric is called that was given without a name."""
    if isinstance(value, (str, Metric)):
        return value if isinstance(value, str) else value.name
    name = type(value).__name__.lower() if _is_computed(value) else getattr(value, "__name__", "")
    if not name.isidentifier():
        raise InputError(f"metrics= holds {value!r}, which has no name", remedy="Name it: metrics={'mine': ...}.")
    return name


def _metric(name: str, value: Any) -> Metric:
    if isinstance(value, str):
        if value == "wer":
            raise MetricError("wer compares texts", remedy="Say how they come about: metrics=[tl.wer(decode)].")
        found = known(value)
        if found is None:
            raise MetricError(f"there is no metric {value!r} for data in memory", remedy=_REMEDY, metric=value)
        return replace(found, name=name)
    if isinstance(value, Metric):
        if value.function is None:
            raise InputError(f"the metric {name} has no function", remedy="Give it: Metric(name, function=...).")
        value = replace(value, name=name)
        known_here = value.whole is not None or value.function in [m.function for m in METRICS.values()]
        return value if known_here else replace(value, whole=_Whole(value.function))
    if _is_computed(value):
        better: Direction = "lower" if getattr(value, "higher_is_better", True) is False else "higher"
        computed = _Computed(value)
        return Metric(name, unit=UNITS, better=better, whole=_Whole(computed), function=computed)
    if callable(value):
        return Metric(name, unit=UNITS, whole=_Whole(value), function=value)
    raise InputError(f"metrics= has {value!r} for {name}", remedy=_REMEDY)


def _is_computed(value: Any) -> bool:
    return not isinstance(value, type) and all(
        callable(getattr(value, n, None)) for n in ("update", "compute", "reset")
    )


def _said(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_said(part)}" for name, part in value.items())
    return f"a {type(value).__name__}"
