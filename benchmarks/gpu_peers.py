"""What torchlift's GPU variants are measured against, and how texts of many lengths are, in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from captions import CONTEXT, caption_lengths
from torchlift.backends import Call, Session
from torchlift.pipelines.batches import slices
from torchlift.pipelines.run import filled
from torchlift.pipelines.texts import TextBatches
from torchlift.signature import Signature

Cut = Callable[[Session, np.ndarray], list[np.ndarray]]

BATCH = 64


class PlainOnnxRuntime(Session):
    """ONNX Runtime's CUDA provider as it comes, on the graph in half precision, with its memory bound."""

    on_device = True

    def __init__(self, model: Path, signature: Signature) -> None:
        import onnxruntime as ort

        ort.preload_dlls()
        super().__init__(signature, f"onnxruntime {ort.__version__} CUDAExecutionProvider with its defaults")
        self._session = ort.InferenceSession(str(model), providers=["CUDAExecutionProvider"])

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = self.signature.output_names
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def _prepare(self, feeds: Mapping[str, np.ndarray]) -> Call:
        import onnxruntime as ort

        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
        for name in self.signature.output_names:
            binding.bind_output(name, "cuda")
        return partial(self._session.run_with_iobinding, binding)


class Stream(Session):
    """Runs all rows of an input of ids [texts, context], in the batches that ``cut`` makes of them for a session.

    Every batch is on the GPU before it is timed; a call runs one after the other.
    """

    on_device = True

    def __init__(self, open_session: Callable[[], Session], cut: Cut) -> None:
        inner = open_session()
        super().__init__(inner.signature, inner.runtime)
        self._inner = inner
        self._cut = cut

    def fits(self, feeds: Mapping[str, np.ndarray]) -> bool:
        """Any number of rows is cut to batches."""
        return True

    def prepare(self, feeds: Mapping[str, np.ndarray], *, copies: bool = False) -> Call:
        calls = [self._inner.prepare({"text": part}, copies=copies) for part in self._cut(self._inner, feeds["text"])]

        def call() -> float | None:
            times = [call() for call in calls]
            return None if None in times else sum(t for t in times if t is not None)

        return call

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise TypeError("a stream is only timed")

    def _prepare(self, feeds: Mapping[str, np.ndarray]) -> Call:
        raise TypeError("a stream is only timed")


def padded(session: Session, ids: np.ndarray, size: int) -> list[np.ndarray]:
    """The texts as they come, all of them padded to the context."""
    return [ids[part] for part in slices(len(ids), size)]


def by_likeness(session: Session, ids: np.ndarray, size: int | None = None) -> list[np.ndarray]:
    """The texts in the batches that Chinese-CLIP's pipeline makes of them."""
    lengths = (ids != 0).sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    batches = TextBatches(session, session.signature, size).of(lengths[order].tolist())
    return [filled(ids[order[batch.rows], :length], batch.size) for batch, length in batches]


def captions_as_ids(count: int, seed: int = 0) -> np.ndarray:
    """Token ids [count, 52] of captions, from [CLS] to [SEP]."""
    rng = np.random.default_rng(seed)
    lengths = caption_lengths(count, rng)
    ids = np.zeros((count, CONTEXT), np.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[0], row[1 : 1 + length], row[1 + length] = 101, rng.integers(700, 8000, length), 102
    return ids
