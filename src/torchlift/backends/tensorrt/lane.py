"""An execution context of an engine, with memory for its inputs and outputs. It runs directly or as a recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from torchlift.backends.base import Arrays
from torchlift.backends.cuda import Buffer, Recording, Stream, capture
from torchlift.backends.tensorrt.engines import Engines
from torchlift.backends.tensorrt.inspector import of_profile
from torchlift.backends.tensorrt.messages import logger
from torchlift.errors import BackendError, DeviceMemoryError

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""TensorRT's name of a type -> NumPy's. (``tensorrt.nptype`` of 8.5 fails with NumPy 1.24 and later.)"""


class Lane:
    """One execution context with memory for its inputs and outputs.

    A lane runs any shape of its profile. Once it is recorded as a CUDA graph, it runs that one shape only.
    """

    def __init__(self, engines: Engines, profile: int, stream: Stream) -> None:
        self._stream, self._engines, self._profile = stream, engines, profile
        self._engine = engines.take(profile)
        self._context: Any = None
        self._recording: Recording | None = None
        self.dtypes: dict[str, np.dtype] = {}
        self.inputs: dict[str, Buffer] = {}
        self.outputs: dict[str, Buffer] = {}
        self.holds: Arrays | None = None
        """The arrays whose values the inputs hold now; None where that is not known."""

        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        import tensorrt as trt

        engine, profile, stream = self._engine, self._profile, self._stream
        self._context = engine.create_execution_context()
        if self._context is None:
            raise DeviceMemoryError(
                f"there is no room to run the engine: {logger().last()}",
                remedy="Open fewer sessions, or narrow the profiles.",
            )
        if not self._context.set_optimization_profile_async(profile, stream.handle):
            raise BackendError(f"the engine has no profile {profile}", remedy="Build it again: torchlift build.")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.dtypes = {name: _dtype(name, engine.get_tensor_dtype(name)) for name in names}
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = {name: Buffer(stream.device) for name in inputs}
        self.outputs = {name: Buffer(stream.device) for name in names if name not in inputs}

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Set the shapes of the inputs, and make room for inputs and outputs."""
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise BackendError(f"TensorRT refuses input {name} of shape {shape}", remedy="Build the engine again.")
            self._place(name, self.inputs[name])
        for name, buffer in self.outputs.items():
            if min(self.shape_of(name), default=0) < 0:
                raise BackendError(
                    f"the size of output {name} depends on the values of the inputs",
                    remedy="Use another backend: an engine's outputs must have sizes that follow from the inputs'.",
                )
            self._place(name, buffer)

    def _place(self, name: str, buffer: Buffer) -> None:
        buffer.reserve(max(1, int(np.prod(self.shape_of(name))) * self.dtypes[name].itemsize))
        self._context.set_tensor_address(name, buffer.address)

    def shape_of(self, name: str) -> tuple[int, ...]:
        return tuple(self._context.get_tensor_shape(name))

    def read(self, name: str, address: int) -> None:
        """Let the engine read an input from another address, until :meth:`shape` is called again."""
        self._context.set_tensor_address(name, address)

    def enqueue(self) -> None:
        """Give one run to the stream. Raises BackendError where TensorRT refuses."""
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(f"the engine did not run: {logger().last()}", remedy="Build it again: torchlift build.")

    def record(self) -> None:
        """Record a run as a CUDA graph. From then on :meth:`launch` replays it.

        The inputs are set to zero first and run once. Fresh memory may hold any numbers: as token ids they could point
        outside of the embedding, and such an access makes the GPU unusable for this process.
        """
        for buffer in self.inputs.values():
            buffer.clear(self._stream)
        self.enqueue()
        self._stream.synchronize()
        self._recording = capture(self._stream, self.enqueue)

    def launch(self) -> None:
        if self._recording is None:
            self.enqueue()
        else:
            self._recording.launch(self._stream)

    def profile_with(self, profiler: Any) -> None:
        self._context.profiler = profiler

    def describe(self) -> list[str]:
        """TensorRT's description of each layer, as JSON, for this lane's profile and shapes.

        Each layer is asked for by itself: where an engine has several profiles, 8.5 cannot describe it as a whole.
        """
        import tensorrt as trt

        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        form = trt.LayerInformationFormat.JSON
        texts = [inspector.get_layer_information(index, form) for index in range(self._engine.num_layers)]
        return of_profile([text for text in texts if text], self._profile)

    def close(self) -> None:
        self.holds = None
        if self._recording is not None:
            self._recording.close()
        self._context = None  # first, since it refers to the engine
        self._engines.give_back(self._engine, self._profile)
        for buffer in (*self.inputs.values(), *self.outputs.values()):
            buffer.close()


def _dtype(name: str, kind: Any) -> np.dtype:
    """NumPy's dtype of a tensor. Raises BackendError for a tensorrt.DataType that NumPy does not have."""
    if kind.name not in _DTYPES:
        raise BackendError(
            f"tensor {name} of the engine is {kind.name}, which NumPy does not have",
            remedy=f"Use a model whose inputs and outputs are {', '.join(_DTYPES.values())}.",
        )
    return np.dtype(_DTYPES[kind.name])
