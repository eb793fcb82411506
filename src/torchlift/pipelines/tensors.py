"""The pipeline of any module: arrays in and out, with the pre- and postprocessing that its author declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.errors import BundleError, InputError, SignatureError
from torchlift.pipelines.base import OpenOptions, Pipeline, ends_when_closed
from torchlift.pipelines.batches import Batch, batch_size, cut, filled, listed, taken
from torchlift.processing.declared import from_settings
from torchlift.progress import Progress
from torchlift.signature import BATCH, Axis, Signature


class TensorPipeline(Pipeline):
    """A bundle with one component, called like a function."""

    def __init__(
        self,
        bundle: Bundle,
        options: OpenOptions,
        progress: Progress,
        sessions: Mapping[str, Session] | None = None,
    ) -> None:
        super().__init__(bundle, options, progress, sessions)
        if not bundle.manifest.components:
            raise BundleError(f"{bundle.path} has no component", remedy="Ship the model again.")
        self.component = bundle.manifest.components[0].name
        self.preprocess, self.postprocess = from_settings(bundle.manifest.settings)
        self._inputs = {spec.name: spec for spec in self.signature.inputs}

    @property
    def signature(self) -> Signature:
        return self.bundle.manifest.component(self.component).signature

    def __call__(self, inputs: Mapping[str, Any], *, size: int | None = None) -> dict[str, Any]:
        """Input name -> value to output name -> answer.

        A value is an array of the signature's dtype and shape, or, where the input has declared preprocessing, a list
        of image sources, which are decoded in threads while the session works on the batch before. An answer is an
        array, or with declared labels a list per row of (name, score). Any number of rows is split into batches of
        ``size`` (default: the batch axis' optimum), or as many as an engine's profiles hold, unless an output has no
        batch axis. Raises InputError, SignatureError, ProfileError where no profile holds any number of them.
        """
        return {
            name: self.postprocess[name](array) if name in self.postprocess else array
            for name, array in self.arrays(inputs, size=size).items()
        }

    @ends_when_closed
    def arrays(self, inputs: Mapping[str, Any], *, size: int | None = None) -> dict[str, np.ndarray]:
        """As a call, but without the postprocessing: every output is an array."""
        session = self.session(self.component)
        given = {name: self._given(name, value) for name, value in inputs.items()}
        axis, count = self.signature.batch, self._count(given)
        if axis is None or count is None:
            return session.run(self._feeds(given, Batch(slice(None), 0)))
        batches = self._batches(session, given, count, size)
        answers = [session.run(feeds) for feeds in self._loader.ahead(partial(self._feeds, given), batches)]
        return answers[0] if len(answers) == 1 and batches[0].size == count else self._joined(answers, axis, count)

    def _given(self, name: str, value: Any) -> np.ndarray | list[Any]:
        """A value as an array, or as a list of images. Raises SignatureError for an array of another rank."""
        if name in self.preprocess and not isinstance(value, np.ndarray):
            return listed(value, "images")
        array, spec = np.asarray(value), self._inputs.get(name)
        if spec is not None and array.ndim != len(spec.shape):
            raise SignatureError(f"input {name} is {array.dtype}{list(array.shape)}", remedy=f"It must be {spec}.")
        return array

    def _position(self, name: str) -> int | None:
        return self._inputs[name].batch_position if name in self._inputs else None

    def _count(self, given: Mapping[str, np.ndarray | list[Any]]) -> int | None:
        """How many rows are given; None where no input has a batch axis."""
        rows = {
            name: len(value) if isinstance(value, list) else value.shape[position]
            for name, value in given.items()
            if (position := self._position(name)) is not None
        }
        if len({*rows.values()}) > 1:
            raise InputError(
                f"the inputs have different numbers of rows: {', '.join(f'{n} {count}' for n, count in rows.items())}",
                remedy="Give every input with a batch axis the same number of rows.",
            )
        count = next(iter(rows.values()), None)
        if count == 0:
            raise InputError("the batch is empty", remedy="Give at least one row.")
        return count

    def _batches(
        self, session: Session, given: Mapping[str, np.ndarray | list[Any]], count: int, size: int | None
    ) -> list[Batch]:
        """The batches that ``count`` rows make. Raises InputError where an output cannot be put together from them."""
        axis, sizes = self.signature.axis(BATCH), self._sizes(given)
        fits = size is None and axis.min <= count <= axis.max
        whole = next((spec for spec in self.signature.outputs if spec.shape.count(BATCH) != 1), None)
        if fits and whole:
            return [Batch(slice(0, count), count)]

        def runs(rows: int) -> bool:
            asked = {**sizes, BATCH: rows}
            return len(asked) < len(self.signature.axes) or session.covers(asked)

        batches = cut(count, range(axis.min, (axis.max if fits else batch_size(axis, size)) + 1), runs)
        if whole and (len(batches) > 1 or batches[0].size > count):
            raise _not_one_batch(f"output {whole.name}, {whole}, is computed over the whole batch", axis, count)
        return batches

    def _sizes(self, given: Mapping[str, np.ndarray | list[Any]]) -> dict[str, int]:
        """The sizes of the axes, but the batch, of the inputs that are given."""
        shapes = {
            name: (len(value), 3, *self.preprocess[name].size) if isinstance(value, list) else value.shape
            for name, value in given.items()
            if name in self._inputs
        }
        return {
            dim: size
            for name, shape in shapes.items()
            for dim, size in zip(self._inputs[name].shape, shape, strict=False)
            if isinstance(dim, str) and dim != BATCH
        }

    def _feeds(self, given: Mapping[str, np.ndarray | list[Any]], batch: Batch) -> dict[str, np.ndarray]:
        """What the session takes for a batch: images decoded, rows filled up."""
        feeds = {}
        for name, value in given.items():
            position = self._position(name)
            if isinstance(value, list):
                rows = slice(None) if position is None else batch.rows
                array = self._loader.decoded(self.preprocess[name], value, rows, "image")
            else:
                array = value if position is None else taken(value, batch.rows, position)
            feeds[name] = array if position is None else filled(array, batch.size, position)
        return feeds

    def _joined(self, answers: Sequence[dict[str, np.ndarray]], axis: Axis, count: int) -> dict[str, np.ndarray]:
        """The outputs of all batches, each along its batch axis, without the rows that filled up."""
        joined = {}
        for spec in self.signature.outputs:
            position = spec.batch_position or 0
            arrays = [answer[spec.name] for answer in answers]
            if len({(*a.shape[:position], *a.shape[position + 1 :]) for a in arrays}) > 1:
                raise _not_one_batch(f"output {spec.name} has another size in each batch", axis, count)
            joined[spec.name] = taken(np.concatenate(arrays, position), slice(count), position)
        return joined


def _not_one_batch(reason: str, axis: Axis, count: int) -> InputError:
    return InputError(
        f"{reason}, and {count} rows would not be one",
        remedy=f"Give at least {axis.min} and at most {axis.max} rows at once, without a smaller size.",
    )
