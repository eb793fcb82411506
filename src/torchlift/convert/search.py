"""Finds the few items, such as nodes, that do most of the damage, with few evaluations."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

EVALUATIONS = 40
"""How often the damage of a set is asked for at most, where nothing else was said."""

_SETTLED = 0.02
"""A set of items is not split further where it does less than this share of the damage of all items together."""


@dataclass(frozen=True)
class Finding(Generic[Item]):
    """Neighbouring items, and the damage where only they are converted."""

    items: tuple[Item, ...]
    damage: float


@dataclass(frozen=True)
class Search(Generic[Item]):
    """The result of a search.

    ``total`` is the damage of all items together. ``findings`` cover all items; the one with most damage per item is
    first. ``evaluations`` is how often the damage was evaluated.
    """

    total: float
    findings: tuple[Finding[Item], ...]
    evaluations: int


def bisect(
    items: Sequence[Item],
    damage: Callable[[Sequence[Item]], float],
    evaluations: int = EVALUATIONS,
    total: float | None = None,
) -> Search[Item]:
    """Rank ``items`` by the damage that each does alone.

    ``damage`` evaluates what is lost where only the given items are converted. It is called at most ``evaluations``
    times. The set with the most damage is cut in half, and this is repeated. Sets that do almost no damage stay whole.
    Where damages add up, k culprits among n items take about 2 k log2(n / k) evaluations. ``total`` is the damage of
    all items, if known: that saves one call.
    """
    if not items:
        return Search(0.0, (), 0)
    spent = 0
    if total is None:
        total, spent = damage(items), 1
    order = itertools.count()
    open_sets: list[tuple[float, int, Finding[Item]]] = []
    settled: list[Finding[Item]] = []

    def file(finding: Finding[Item]) -> None:
        if len(finding.items) == 1 or finding.damage <= _SETTLED * total:
            settled.append(finding)
        else:
            heapq.heappush(open_sets, (-finding.damage, next(order), finding))

    file(Finding(tuple(items), total))
    while open_sets and spent + 2 <= evaluations:
        whole = heapq.heappop(open_sets)[-1].items
        middle = len(whole) // 2
        for part in (whole[:middle], whole[middle:]):
            file(Finding(part, damage(part)))
            spent += 1
    findings = [*settled, *(finding for *_, finding in open_sets)]
    findings.sort(key=lambda f: f.damage / len(f.items), reverse=True)
    return Search(total, tuple(findings), spent)
