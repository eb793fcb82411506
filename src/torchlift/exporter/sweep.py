"""Compares an exported file, opened as a session, with PyTorch at many more sizes than the goldens have."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from torchlift.axes import BATCH
from torchlift.backends import Session
from torchlift.errors import VerificationError
from torchlift.exporter.answers import answers_of
from torchlift.families.base import ModelComponent
from torchlift.families.sizes import at, is_dynamic
from torchlift.messages import failure_text
from torchlift.progress import Progress
from torchlift.prove.goldens import Golden
from torchlift.prove.numerics import Judge, failures, verify_goldens
from torchlift.signature import Signature

_BUDGET = 2.0
"""Seconds after which the sweep ends. A network that needs longer for one size is compared at that size alone."""

_MOST = 256
"""At most so many sizes of an axis are tried."""


def sweep(
    part: ModelComponent,
    session: Session,
    judge: Judge,
    seed: int,
    progress: Progress,
    doubtful: Sequence[Mapping[str, int]] = (),
) -> bool:
    """Whether every size of every axis was compared, each by itself and with the other axes at their optimum, after
    the ``doubtful`` sizes.

    Raises VerificationError where the session answers otherwise than PyTorch at a size between those of the goldens.

    For example an interpolation by 1.3, whose number of frames ONNX rounds otherwise at 90 frames. Each axis but the
    batch is tried at its sizes in a seeded order, the others at their optimum, then two axes at equal sizes, until the
    time is over.
    """
    signature = session.signature
    asked = [*doubtful, *_asked(signature, seed)]
    if not asked:
        return True
    started = time.perf_counter()
    with progress.stage(f"compare {part.name} at more sizes", len(asked)) as stage:
        for number, sizes in enumerate(asked):
            feeds = part.sample(sizes, np.random.default_rng([seed, 2000 + number]))
            golden = Golden("between", feeds, answers_of(part, feeds), sizes=dict(sizes))
            wrong = failures(verify_goldens(session.run, [golden], judge), judge.tolerance)
            if wrong:
                raise VerificationError(
                    f"the exported graph does not answer as PyTorch does: {'; '.join(map(failure_text, wrong))}",
                    remedy=f"It does at other sizes than {at(sizes)}: narrow the range of the axis with `axes=`, or "
                    "compute sizes with whole numbers where they follow from a fraction.",
                )
            stage.advance()
            if time.perf_counter() - started > _BUDGET and number + 1 < len(asked):
                return False
    return all(len(axis.sizes_between(axis.min, axis.max)) <= _MOST for axis in signature.axes if axis.name != BATCH)


def _asked(signature: Signature, seed: int) -> Iterator[Mapping[str, int]]:
    """Sizes of one axis after the other, those of all axes in turn."""
    usual = {axis.name: min(max(axis.min, 2), axis.max) if axis.name == BATCH else axis.opt for axis in signature.axes}
    rng = np.random.default_rng([seed, 77])
    orders = {
        axis.name: rng.permutation(np.asarray(axis.sizes_between(axis.min, axis.max)))[:_MOST]
        for axis in signature.axes
        if is_dynamic(axis) and axis.name != BATCH
    }
    for position in range(max(map(len, orders.values()), default=0)):
        for name, order in orders.items():
            if position < len(order):
                yield {**usual, name: int(order[position])}
    for (one, first), (other, second) in itertools.combinations(orders.items(), 2):
        for size in sorted({*map(int, first)} & {*map(int, second)}):
            yield {**usual, one: size, other: size}
