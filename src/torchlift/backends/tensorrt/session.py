"""An engine that is loaded: memory of its own, one stream, and a CUDA graph for each of the last shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchlift.backends.base import Arrays, Call, Session, SessionOptions
from torchlift.backends.cuda import (
    Buffer,
    DeviceArray,
    Graph,
    GraphCache,
    Pinned,
    Stream,
    Timer,
    capture,
    on_device,
    to_device,
    to_host,
    view,
    within_device,
)
from torchlift.backends.tensorrt.engines import Engines
from torchlift.backends.tensorrt.inspector import of_profile, profiler
from torchlift.backends.tensorrt.messages import logger
from torchlift.backends.tensorrt.profiles import Ranges, best_profile, outside
from torchlift.errors import BackendError, DeviceMemoryError, SignatureError
from torchlift.signature import Signature


class Lane:
    """One execution context with its inputs' and outputs' memory. Recorded as a CUDA graph it is for one shape."""

    def __init__(self, engines: Engines, profile: int, stream: Stream) -> None:
        import tensorrt as trt

        self._stream, self._engines, self._profile = stream, engines, profile
        self._engine = engine = engines.take(profile)
        self._context = engine.create_execution_context()
        if self._context is None:
            raise DeviceMemoryError(
                f"there is no room to run the engine: {logger().last()}",
                remedy="Open fewer sessions, or narrow the profiles.",
            )
        if not self._context.set_optimization_profile_async(profile, stream.handle):
            raise BackendError(f"the engine has no profile {profile}", remedy="Build it again: torchlift build.")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in names}
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = {name: Buffer(stream.device) for name in inputs}
        self.outputs = {name: Buffer(stream.device) for name in names if name not in inputs}
        self._graph: Graph | None = None

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Make room for inputs of these shapes and what comes of them."""
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
        """Read an input from another place, until the shape is set again."""
        self._context.set_tensor_address(name, address)

    def enqueue(self) -> None:
        """Tell the stream to run. Raises BackendError."""
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(f"the engine did not run: {logger().last()}", remedy="Build it again: torchlift build.")

    def record(self) -> None:
        """Run once, and keep the run as a CUDA graph, which :meth:`launch` replays from then on."""
        self.enqueue()
        self._stream.synchronize()
        self._graph = capture(self._stream, self.enqueue)

    def launch(self) -> None:
        if self._graph is None:
            self.enqueue()
        else:
            self._graph.launch(self._stream)

    def profile_with(self, profiler: Any) -> None:
        self._context.profiler = profiler

    def describe(self) -> list[str]:
        """The inspector's JSON of each layer of this lane's profile, at its shapes.

        Asked for the engine as a whole, 8.5 fails where there are several profiles.
        """
        import tensorrt as trt

        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        form = trt.LayerInformationFormat.JSON
        texts = [inspector.get_layer_information(index, form) for index in range(self._engine.num_layers)]
        return of_profile([text for text in texts if text], self._profile)

    def close(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._context = None  # before the engine, which it refers to
        self._engines.give_back(self._engine, self._profile)
        for buffer in (*self.inputs.values(), *self.outputs.values()):
            buffer.close()


class TensorRtSession(Session):
    """A deserialised engine. Every shape has a lane of its own with CUDA graphs, else every profile has one."""

    on_device = True

    def __init__(
        self,
        engines: Engines,
        signature: Signature,
        runtime: str,
        profiles: Sequence[Ranges],
        options: SessionOptions,
    ) -> None:
        super().__init__(signature, runtime)
        self._engines = engines
        self._profiles = profiles
        self._options = options
        self._stream = Stream(options.device)
        self._lanes: GraphCache[Lane] = GraphCache(options.graphs if options.cuda_graph else max(1, len(profiles)))
        self._lent: Mapping[str, DeviceArray] = {}
        """What the last call was given on the device: kept until the next, since it returned before that was read."""

        self._pinned = {name: Pinned(options.device) for name in (*signature.input_names, *signature.output_names)}

    def covers(self, sizes: Mapping[str, int]) -> bool:
        return best_profile(self._profiles, sizes) is not None

    def _lane(self, shapes: Mapping[str, tuple[int, ...]]) -> Lane:
        """A lane that is ready for inputs of these shapes. Raises ProfileError where no profile holds them."""
        sizes = self._sizes(shapes)
        profile = best_profile(self._profiles, sizes)
        if profile is None:
            raise outside(self._profiles, sizes)
        key = (profile, *sizes.values()) if self._options.cuda_graph else profile
        lane = self._lanes.get(key)
        if lane is None:
            lane = Lane(self._engines, profile, self._stream)
            lane.shape(shapes)
            if self._options.cuda_graph:
                lane.record()
            self._lanes.put(key, lane)
        elif not self._options.cuda_graph:
            lane.shape(shapes)
        return lane

    def _sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        return {
            dim: shapes[spec.name][position]
            for spec in self.signature.inputs
            for position, dim in enumerate(spec.shape)
            if isinstance(dim, str)
        }

    def _loaded(self, feeds: Arrays) -> Lane:
        """The lane for ``feeds``, with them in its memory."""
        lane = self._lane({name: array.shape for name, array in feeds.items()})
        for name, array in feeds.items():
            staged = self._pinned[name].array(array.shape, lane.dtypes[name])
            _fill(staged, array, name)
            to_device(staged, lane.inputs[name].address, self._stream)
        return lane

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        staged = {}
        with on_device(self._options.device):
            lane = self._loaded(feeds)
            lane.launch()
            for spec in self.signature.outputs:
                staged[spec.name] = self._pinned[spec.name].array(lane.shape_of(spec.name), lane.dtypes[spec.name])
                to_host(lane.outputs[spec.name].address, staged[spec.name], self._stream)
            self._stream.synchronize()
        return {spec.name: staged[spec.name].astype(spec.dtype) for spec in self.signature.outputs}

    def _prepare(self, feeds: Arrays) -> Call:
        with on_device(self._options.device):
            lane, timer = self._loaded(feeds), Timer(self._stream)
            self._stream.synchronize()

        def call() -> float:
            with on_device(self._options.device):
                timer.start()
                lane.launch()
                return timer.stop()

        return call

    def run_on_device(self, tensors: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Run tensors that lie on the session's GPU (DLPack or ``__cuda_array_interface__``: torch, CuPy), of the
        engine's own dtypes, and return the outputs there, to be read once the session's stream is done with them.

        Inputs are read where they lie, or with a CUDA graph copied on the device to where that reads them. The outputs
        hold until the next call. Raises SignatureError for tensors that do not fit.
        """
        views = {name: view(tensor, self._stream) for name, tensor in tensors.items()}
        shapes = {name: given.shape for name, given in views.items()}
        self.signature.check_shapes(shapes)
        with on_device(self._options.device):
            lane = self._lane(shapes)
            for name, given in views.items():
                if given.dtype != lane.dtypes[name]:
                    raise SignatureError(
                        f"input {name} is {given.dtype} on the device, and the engine reads {lane.dtypes[name]}",
                        remedy=f"Convert it to {lane.dtypes[name]}.",
                    )
                if self._options.cuda_graph:
                    within_device(given.address, lane.inputs[name].address, given.nbytes, self._stream)
                else:
                    lane.read(name, given.address)
            self._lent = views
            lane.launch()
        return {
            name: DeviceArray(
                buffer.address, lane.shape_of(name), lane.dtypes[name], self._options.device, buffer.block, self._stream
            )
            for name, buffer in lane.outputs.items()
        }

    def layer_times(self, feeds: Arrays, runs: int) -> tuple[dict[str, list[float]], list[str]]:
        """Run ``feeds`` as often as asked, after one run that does not count: layer -> milliseconds of each run, in the
        order in which they run; and the inspector's JSON of each, at these shapes.
        """
        times = profiler()
        with on_device(self._options.device):
            lane = self._loaded(feeds)
            lane.enqueue()
            self._stream.synchronize()
            lane.profile_with(times)
            for _ in range(runs):
                lane.enqueue()
                self._stream.synchronize()
            return times.milliseconds, lane.describe()

    def describe(self, sizes: Mapping[str, int]) -> list[str]:
        """The inspector's JSON of each layer for axes of these sizes."""
        with on_device(self._options.device):
            return self._lane({spec.name: spec.shape_at(sizes) for spec in self.signature.inputs}).describe()

    def close(self) -> None:
        self._lanes.clear()
        self._lent = {}
        self._engines.close()
        for pinned in self._pinned.values():
            pinned.close()
        self._stream.close()


def _fill(staged: np.ndarray, array: np.ndarray, name: str) -> None:
    """Copy to the dtype that the engine reads. Raises SignatureError for an integer that this cannot hold."""
    if array.dtype.kind == "i" and array.dtype.itemsize > staged.dtype.itemsize and array.size:
        limits = np.iinfo(staged.dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise SignatureError(
                f"input {name} holds {array.max()}, and the engine reads {staged.dtype}",
                remedy=f"Pass values from {limits.min} to {limits.max}, or use another backend.",
            )
    np.copyto(staged, array, casting="unsafe")
