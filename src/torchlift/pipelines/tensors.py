"""The pipeline of any module: arrays in and out, with the pre- and postprocessing that its author declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchlift.bundle import Bundle
from torchlift.errors import InputError
from torchlift.pipelines.base import OpenOptions, Pipeline
from torchlift.pipelines.batches import batch_size, filled, slices
from torchlift.processing.declared import from_settings
from torchlift.progress import Progress
from torchlift.signature import BATCH, Signature, TensorSpec


class TensorPipeline(Pipeline):
    """A bundle with one component, called like a function."""

    def __init__(self, bundle: Bundle, options: OpenOptions, progress: Progress) -> None:
        super().__init__(bundle, options, progress)
        self.component = bundle.manifest.components[0].name
        self.preprocess, self.postprocess = from_settings(bundle.manifest.settings)

    @property
    def signature(self) -> Signature:
        return self.bundle.manifest.component(self.component).signature

    def __call__(self, inputs: Mapping[str, Any], *, size: int | None = None) -> dict[str, Any]:
        """Input name -> value to output name -> answer.

        A value is an array of the signature's dtype and shape, or, where the input has declared preprocessing, a list
        of image sources. An answer is an array, or with declared labels a list per row of (name, score). Any number
        of rows is split into batches of ``size`` (default: the batch axis' optimum). Raises InputError, SignatureError.
        """
        feeds = {name: self._prepared(name, value) for name, value in inputs.items()}
        answers = self._in_batches(feeds, size)
        return {
            name: self.postprocess[name](array) if name in self.postprocess else array
            for name, array in answers.items()
        }

    def _prepared(self, name: str, value: Any) -> np.ndarray:
        if name in self.preprocess and not isinstance(value, np.ndarray):
            return self.preprocess[name].batch(value)
        return np.asarray(value)

    def _in_batches(self, feeds: Mapping[str, np.ndarray], size: int | None) -> dict[str, np.ndarray]:
        signature, session = self.signature, self.session(self.component)
        axis = signature.batch
        batched = [s.name for s in signature.inputs if s.shape[:1] == (BATCH,) and np.ndim(feeds.get(s.name, 0))]
        if axis is None or not batched:
            return session.run(feeds)
        rows = {len(feeds[name]) for name in batched}
        if len(rows) != 1:
            raise InputError(
                f"the inputs have different numbers of rows: {', '.join(f'{n} {len(feeds[n])}' for n in batched)}",
                remedy="Give every input with a batch axis the same number of rows.",
            )
        count = rows.pop()
        if count == 0:
            raise InputError("the batch is empty", remedy="Give at least one row.")
        if axis.min <= count <= axis.max and size is None:
            return session.run(feeds)
        parts = [
            session.run({n: filled(a[part], axis) if n in batched else a for n, a in feeds.items()})
            for part in slices(count, batch_size(axis, size))
        ]
        return {s.name: _joined(s, [p[s.name] for p in parts], count) for s in signature.outputs}


def _joined(spec: TensorSpec, parts: Sequence[np.ndarray], count: int) -> np.ndarray:
    """One output of several batches: ``count`` rows, or, where its size is fixed, what every batch answers."""
    if not spec.shape or isinstance(spec.shape[0], int):
        return parts[0]
    joined = np.concatenate(parts)
    return joined[:count] if spec.shape[0] == BATCH else joined
