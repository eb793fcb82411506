"""Sessions of ONNX Runtime: one for the processor, and one that keeps all data in the memory of a GPU."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from torchlift.backends.base import Arrays, Call, Session, SessionOptions
from torchlift.backends.cuda import (
    Buffer,
    DeviceArray,
    Pinned,
    Stream,
    Timer,
    on_device,
    to_host,
    upload,
    view,
    within_device,
)
from torchlift.backends.turns import GPUS, DeviceTurns
from torchlift.errors import BackendError, DeviceMemoryError
from torchlift.signature import Signature, TensorSpec

if TYPE_CHECKING:
    import onnxruntime as ort

Result = TypeVar("Result")

_RECORDING = "gpu_graph_id"
"""An option of a run: the number of a recording. The first run with a number records, later ones replay. -1: neither.
"""

_UNRECORDED = -1
_ASYNCHRONOUS = "disable_synchronize_execution_providers"
"""An option of a run. With 1, the run returns as soon as its work is given to the stream."""

_NO_MEMORY = ("Failed to allocate memory", "out of memory")
"""Found in the messages of ONNX Runtime and CUDA where the GPU has no memory left."""


class OnnxRuntimeSession(Session):
    """Runs an ``onnxruntime.InferenceSession`` on the processor. Several threads may run it at the same time."""

    reentrant = True

    def __init__(self, session: ort.InferenceSession, signature: Signature, runtime: str) -> None:
        super().__init__(signature, runtime)
        self._session: Any = session

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        names, session = self.signature.output_names, self._kept(self._session)
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    def _prepare(self, feeds: Arrays) -> Call:
        import onnxruntime as ort

        sizes, session = self.signature.check(feeds), self._kept(self._session)
        binding = session.io_binding()
        values = {n: ort.OrtValue.ortvalue_from_numpy(np.asarray(a, order="C")) for n, a in feeds.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for spec in self.signature.outputs:
            shape = known_shape(spec, sizes)
            if shape is None:
                binding.bind_output(spec.name)
            else:
                value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(spec.dtype))
                binding.bind_ortvalue_output(spec.name, value)

        def call() -> None:
            _ = values  # keeps the inputs alive: the binding reads the memory of the arrays
            session.run_with_iobinding(binding)

        return call

    def _close(self) -> None:
        self._session = None


def known_shape(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """The shape of a tensor for given sizes of the axes; None where only the model can compute it."""
    return None if None in spec.shape else spec.shape_at(sizes)


@dataclass
class _Bound:
    """Memory of the GPU for inputs of one shape and for their outputs.

    It is bound once, since a recording reads and writes the same addresses in every run.

    - ``binding`` and ``how`` are ONNX Runtime's binding and its options of a run.
    - ``results`` are the shapes of the outputs, without those that only the model can compute.
    - ``records`` says whether the next run is recorded as a CUDA graph.
    - ``holds`` are the arrays whose values the inputs hold now; None where that is not known.
    """

    inputs: dict[str, Buffer]
    outputs: dict[str, Buffer]
    binding: Any
    how: Any
    results: dict[str, tuple[int, ...]]
    records: bool
    holds: Arrays | None = None


class DeviceSession(Session):
    """Runs an ``onnxruntime.InferenceSession`` on a GPU.

    Inputs are copied to bound memory, and all work goes to one stream, whose events tell the time.

    With CUDA graphs, each of the first ``options.graphs`` shapes is recorded in its first run, which takes longer. ONNX
    Runtime keeps a recording until the session is closed. So further shapes run without one, and so does a model that
    computes the size of an output.

    ONNX Runtime records anew for each thread, and keeps the recordings of threads that have ended. So a session with
    CUDA graphs that several threads use does its runs in a thread of its own.
    """

    on_device = True
    device_type: ClassVar[str] = "cuda"
    """The device that ONNX Runtime is told for bound memory."""

    def __init__(
        self,
        session: ort.InferenceSession,
        signature: Signature,
        runtime: str,
        stream: Stream,
        options: SessionOptions | None = None,
    ) -> None:
        """The session owns ``stream``. The provider must have been opened with that same stream."""
        super().__init__(signature, runtime)
        self._turns = DeviceTurns()
        self._session: Any = session
        self._stream = stream
        self._timer = Timer(stream)
        self._options = options or SessionOptions()
        self.records = 0 if signature.computes_sizes else self._options.records
        self._pinned: dict[str, Pinned] = {}
        self._read_by_gpu: Mapping[str, DeviceArray] = {}
        """The inputs on the device that the last call was given. The GPU may still read them after that call returned.
        """

        self._recorded: dict[tuple, _Bound] = {}
        self._others: OrderedDict[tuple, _Bound] = OrderedDict()
        self._first_thread: threading.Thread | None = None
        """The first thread that ran the session."""

        self._own_thread: ThreadPoolExecutor | None = None
        """The session's own thread. It is started when a second thread runs a session that records."""

    def _run_on_device(self, tensors: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Run tensors on the device, which must have the signature's dtypes. They are copied to the bound memory."""
        with on_device(self._stream.device):  # in the caller's thread: DLPack waits for that thread's current stream
            arrays = {name: view(tensor, self._stream) for name, tensor in tensors.items()}
        return self._in_one_thread(lambda: self._run_arrays(arrays))

    def _run_arrays(self, arrays: Mapping[str, Any]) -> dict[str, DeviceArray]:
        self.signature.check(arrays)
        bound = self._bound(arrays)
        bound.holds = None
        for name, array in arrays.items():
            within_device(array.address, bound.inputs[name].address, array.nbytes, self._stream)
        self._read_by_gpu = arrays
        self._launch(bound)
        return {spec.name: self._written(bound, spec) for spec in self.signature.outputs}

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return self._in_one_thread(lambda: self._run_copied(feeds))

    def _run_copied(self, feeds: Arrays) -> dict[str, np.ndarray]:
        bound = self._bound(feeds)
        self._load(bound, feeds)
        bound.holds = None
        self._launch(bound)
        staged = {spec.name: self._fetch(bound, spec) for spec in self.signature.outputs}
        self._stream.synchronize()
        return {name: array.copy() for name, array in staged.items()}

    def _prepare(self, feeds: Arrays) -> Call:
        arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        with on_device(self._stream.device):
            bound = self._bound(arrays)
        timer, stream = self._timer, self._stream

        def timed() -> float:
            if bound.holds is not arrays:
                self._load(bound, arrays)
                stream.synchronize()
            timer.start()
            self._launch(bound)
            return timer.stop()

        return lambda: self._in_one_thread(timed)

    def _in_one_thread(self, work: Callable[[], Result]) -> Result:
        """Do ``work`` with the GPU as the current one.

        A session that records does it in the first thread that ran it. When a second thread comes, the session starts a
        thread of its own, records there anew, and does all further work in it.
        """
        here = threading.current_thread()
        self._first_thread = self._first_thread or here
        if self.records and self._own_thread is None and here is not self._first_thread:
            self._own_thread = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime")
            for bound in self._recorded.values():
                bound.records = True
        return self._on_gpu(work) if self._own_thread is None else self._own_thread.submit(self._on_gpu, work).result()

    def _on_gpu(self, work: Callable[[], Result]) -> Result:
        """Do ``work`` in this thread, with the GPU as the current one."""
        with on_device(self._stream.device):
            return work()

    def _launch(self, bound: _Bound) -> None:
        """Give a run to the stream. Where it records, the thread is alone on the GPUs meanwhile."""
        try:
            with GPUS.alone() if bound.records else nullcontext():
                self._session.run_with_iobinding(bound.binding, bound.how)
        except Exception as error:
            raise _failure(error) from error
        bound.records = False

    def _load(self, bound: _Bound, feeds: Arrays) -> None:
        """Copy inputs to the bound memory by way of page-locked memory. The stream must be done with what was there."""
        bound.holds = None
        for name, array in feeds.items():
            staged = self._staged(name, array.shape, array.dtype)
            upload(array, staged, bound.inputs[name].address, self._stream)
        bound.holds = feeds

    def _fetch(self, bound: _Bound, spec: TensorSpec) -> np.ndarray:
        """An output in page-locked memory. It is valid once the stream is synchronized, until the next run."""
        written = self._written(bound, spec)
        staged = self._staged(spec.name, written.shape, written.dtype)
        to_host(written.address, staged, self._stream)
        return staged

    def _staged(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return self._pinned.setdefault(name, Pinned(self._stream.device)).array(shape, dtype)

    def _written(self, bound: _Bound, spec: TensorSpec) -> DeviceArray:
        """Where the last run wrote an output: bound memory, or ONNX Runtime's own where the model computes its size."""
        owner: Any
        if spec.name in bound.outputs:
            owner = bound.outputs[spec.name].block
            address, shape = owner.address, bound.results[spec.name]
        else:
            owner = bound.binding.get_outputs()[self.signature.output_names.index(spec.name)]
            address, shape = owner.data_ptr(), tuple(owner.shape())
        return DeviceArray(address, shape, np.dtype(spec.dtype), self._stream.device, owner, self._stream)

    def _bound(self, feeds: Arrays) -> _Bound:
        """The memory for inputs of these shapes. Of shapes without a recording, the least recently used are dropped."""
        key = tuple(feeds[name].shape for name in self.signature.input_names)
        if key in self._recorded:
            return self._recorded[key]
        if key in self._others:
            self._others.move_to_end(key)
            return self._others[key]
        room = len(self._recorded) < self.records
        if not room and len(self._others) >= max(1, self._options.graphs):
            self._others.popitem(last=False)
        made = self._bind(feeds, len(self._recorded) + 1 if room else _UNRECORDED)
        (self._recorded if room else self._others)[key] = made
        return made

    def _bind(self, feeds: Arrays, recording: int) -> _Bound:
        """Bind new memory for inputs of these shapes. ``recording`` is the number of their recording, or -1."""
        sizes = self.signature.check(feeds)
        binding = self._session.io_binding()
        shapes = {name: array.shape for name, array in feeds.items()}
        results = {s.name: shape for s in self.signature.outputs if (shape := known_shape(s, sizes)) is not None}
        inputs, outputs = ({n: self._buffer(n, s) for n, s in found.items()} for found in (shapes, results))
        place = (self.device_type, self._stream.device)
        for name, buffer in inputs.items():
            binding.bind_input(name, *place, self._dtype(name), shapes[name], buffer.address)
        for spec in self.signature.outputs:
            known = (
                (self._dtype(spec.name), results[spec.name], outputs[spec.name].address) if spec.name in outputs else ()
            )
            binding.bind_output(spec.name, *place, *known)
        return _Bound(inputs, outputs, binding, self._how(recording), results, recording != _UNRECORDED)

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Buffer:
        buffer = Buffer(self._stream.device)
        buffer.reserve(max(1, _bytes(shape, self._dtype(name))))
        return buffer

    def _dtype(self, name: str) -> np.dtype:
        return next(np.dtype(s.dtype) for s in (*self.signature.inputs, *self.signature.outputs) if s.name == name)

    def _how(self, recording: int) -> Any:
        """ONNX Runtime's options of a run."""
        import onnxruntime as ort

        how = ort.RunOptions()
        how.add_run_config_entry(_ASYNCHRONOUS, "1")
        if self._options.cuda_graph:
            how.add_run_config_entry(_RECORDING, str(recording))
        return how

    def _close(self) -> None:
        if self._own_thread is not None:
            self._own_thread.shutdown()
        with on_device(self._stream.device):
            self._stream.drain()
            self._recorded.clear()
            self._others.clear()
            self._pinned.clear()
            self._read_by_gpu = {}
            self._session = None
            self._timer.close()
            self._stream.close()


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _failure(error: Exception) -> BackendError:
    if any(said in str(error) for said in _NO_MEMORY):
        return DeviceMemoryError(
            f"ONNX Runtime has no room on the GPU: {error}",
            remedy="Run smaller batches, end other programs on the GPU, or choose another device.",
        )
    return BackendError(f"ONNX Runtime failed: {error}", remedy="Check that the model was built for this GPU.")
