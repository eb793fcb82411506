"""Brings goldens to the sizes that a session runs: fewer rows, or the sizes that it has kernels of its own for."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence

from torchlift.backends import Session
from torchlift.backends.opening import open_source
from torchlift.bundle import Bundle
from torchlift.machine import RunOn
from torchlift.manifest import Component
from torchlift.prove.goldens import Golden, cut, telling_order, with_rows
from torchlift.signature import BATCH


def within(session: Session, golden: Golden) -> Golden | None:
    """The golden, or the first of its rows where the session runs no batch so large; None where it runs no part."""
    signature = session.signature
    sizes = signature.check(golden.inputs)
    if session.covers(sizes):
        return golden
    if signature.batch is None:
        return None
    for batch in range(sizes[BATCH] - 1, 0, -1):
        if session.covers({**sizes, BATCH: batch}):
            return with_rows(signature, golden, batch)
    return None


def brought(session: Session, samples: Collection[Golden], met: Sequence[Mapping[str, int]]) -> list[Golden]:
    """The samples with as many rows as what the session has kernels of its own for, the most telling where these are
    fewer, at sizes that it has not met; the other axes stay.
    """
    signature = session.signature
    batches = [sizes[BATCH] for sizes in session.specialised()] if signature.batch else []
    found: list[Golden] = []
    seen = [*met]
    for batch, sample in itertools.product(batches, samples):
        golden = with_rows(signature, sample, batch, telling_order(signature, sample))
        sizes = signature.check(golden.inputs)
        if sizes not in seen and session.covers(sizes):
            seen.append(sizes)
            found.append(golden)
    return found


def answered(
    bundle: Bundle, component: Component, largest: Golden, wanted: Sequence[Mapping[str, int]], on: RunOn
) -> Iterator[Golden]:
    """The largest golden's inputs cut to each of the sizes, with the answers of the FP32 graph, which are PyTorch's, as
    the export proved.
    """
    if not wanted:
        return
    with open_source(bundle, component, on) as session:
        for sizes in wanted:
            inputs = cut(component.signature, largest.inputs, sizes)
            yield Golden(largest.name, inputs, session.run(inputs), sizes=dict(sizes))
