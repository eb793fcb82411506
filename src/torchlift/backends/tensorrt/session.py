"""A session of a loaded engine: its own memory, one stream, and recordings (CUDA graphs) of the last shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchlift.backends.base import Arrays, Call, Session, SessionOptions
from torchlift.backends.cuda import (
    DeviceArray,
    Pinned,
    RecordingCache,
    Stream,
    Timer,
    on_device,
    to_host,
    upload,
    view,
    within_device,
)
from torchlift.backends.tensorrt.engines import Engines
from torchlift.backends.tensorrt.inspector import profiler
from torchlift.backends.tensorrt.lane import Lane
from torchlift.backends.tensorrt.profiles import Ranges, best_profile, outside
from torchlift.backends.turns import GPUS, DeviceTurns
from torchlift.errors import SignatureError
from torchlift.signature import Signature


class TensorRtSession(Session):
    """Runs a loaded engine.

    Without CUDA graphs there is one lane for each profile. With CUDA graphs there is one for each shape.
    """

    on_device = True

    def __init__(
        self,
        engines: Engines,
        signature: Signature,
        runtime: str,
        profiles: Sequence[Ranges],
        options: SessionOptions,
        component: str = "",
    ) -> None:
        super().__init__(signature, runtime)
        self._turns = DeviceTurns()
        self._engines = engines
        self._component = component
        self._profiles = profiles
        self._options = options
        self.records = options.records
        self._stream = Stream(options.on.device)
        self._lanes: RecordingCache[Lane] = RecordingCache(
            options.graphs if options.cuda_graph else max(1, len(profiles))
        )
        self._read_by_gpu: Mapping[str, DeviceArray] = {}
        """The inputs on the device that the last call was given. The GPU may still read them after that call returned.
        """

        self._pinned = {name: Pinned(options.on.device) for name in (*signature.input_names, *signature.output_names)}

    def specialised(self) -> tuple[Mapping[str, int], ...]:
        return tuple({axis.name: axis.opt for axis in profile} for profile in self._profiles)

    def covers(self, sizes: Mapping[str, int]) -> bool:
        return best_profile(self._profiles, sizes) is not None

    def _lane(self, shapes: Mapping[str, tuple[int, ...]], profile: int | None = None) -> Lane:
        """A lane that is ready for inputs of these shapes. Its inputs hold no known values any more.

        It is of the given profile, else of the one that serves these shapes best. Raises SignatureError for shapes that
        the signature does not allow, ProfileError for shapes that no profile covers.
        """
        sizes = self.signature.check_shapes(shapes)
        profile = best_profile(self._profiles, sizes) if profile is None else profile
        if profile is None:
            raise outside(self._profiles, sizes, self._component)
        key = (profile, *sizes.values()) if self._options.cuda_graph else profile
        lane = self._lanes.get(key)
        if lane is None:
            self._stream.synchronize()  # a lane that is dropped may still be running
            self._lanes.make_room()
            lane = self._new_lane(profile, shapes)
            self._lanes.put(key, lane)
        lane.holds = None
        if not self._options.cuda_graph:
            lane.shape(shapes)
        return lane

    def _new_lane(self, profile: int, shapes: Mapping[str, tuple[int, ...]]) -> Lane:
        """A new lane of a profile. With CUDA graphs, a run of these shapes is recorded in it."""
        lane = Lane(self._engines, profile, self._stream)
        if self._options.cuda_graph:
            try:
                lane.shape(shapes)
                with GPUS.alone():
                    lane.record()
            except BaseException:
                lane.close()
                raise
        return lane

    def _lane_being_filled(self, feeds: Arrays) -> Lane:
        """The lane for ``feeds``. Copies of them to its memory are under way on the stream."""
        lane = self._lane({name: array.shape for name, array in feeds.items()})
        for name, array in feeds.items():
            staged = self._pinned[name].array(array.shape, lane.dtypes[name])
            _require_room(array, staged.dtype, name)
            upload(array, staged, lane.inputs[name].address, self._stream)
        return lane

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        staged = {}
        with on_device(self._options.on.device):
            lane = self._lane_being_filled(feeds)
            lane.launch()
            for spec in self.signature.outputs:
                staged[spec.name] = self._pinned[spec.name].array(lane.shape_of(spec.name), lane.dtypes[spec.name])
                to_host(lane.outputs[spec.name].address, staged[spec.name], self._stream)
            self._stream.synchronize()
        return {spec.name: staged[spec.name].astype(spec.dtype) for spec in self.signature.outputs}

    def _prepare(self, feeds: Arrays) -> Call:
        arrays = dict(feeds)
        with on_device(self._options.on.device):
            lane, timer = self._filled_lane(arrays), Timer(self._stream)

        def call() -> float:
            nonlocal lane
            with on_device(self._options.on.device):
                if lane.holds is not arrays:
                    lane = self._filled_lane(arrays)
                timer.start()
                lane.launch()
                return timer.stop()

        return call

    def _filled_lane(self, feeds: Arrays) -> Lane:
        """The lane for ``feeds``, once their copies are done."""
        lane = self._lane_being_filled(feeds)
        self._stream.synchronize()
        lane.holds = feeds
        return lane

    def _run_on_device(self, tensors: Mapping[str, Any]) -> dict[str, DeviceArray]:
        """Run tensors on the device, which must have the dtypes of the engine.

        Inputs are read where they lie. A recording reads fixed addresses, so with CUDA graphs they are copied there.
        """
        with on_device(self._options.on.device):
            views = {name: view(tensor, self._stream) for name, tensor in tensors.items()}
            lane = self._lane({name: given.shape for name, given in views.items()})
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
            self._read_by_gpu = views
            lane.launch()
        return {
            name: DeviceArray(
                buffer.address,
                lane.shape_of(name),
                lane.dtypes[name],
                self._options.on.device,
                buffer.block,
                self._stream,
            )
            for name, buffer in lane.outputs.items()
        }

    def layer_times(self, feeds: Arrays, runs: int) -> tuple[dict[str, list[float]], list[str]]:
        """Time each layer in ``runs`` runs of ``feeds``, after one run that does not count.

        Returns layer -> milliseconds of each run, with layers in the order in which they run, and TensorRT's
        description of each layer at these shapes, as JSON.
        """
        times = profiler()
        with self._turns, on_device(self._options.on.device):
            self._require_open()
            lane = self._lane_being_filled(feeds)
            lane.enqueue()
            self._stream.synchronize()
            lane.profile_with(times)
            for _ in range(runs):
                lane.enqueue()
                self._stream.synchronize()
            return times.milliseconds, lane.describe()

    def describe(self, sizes: Mapping[str, int], profile: int | None = None) -> list[str]:
        """TensorRT's description of each layer, as JSON, for axes of these sizes.

        It is of the given profile, else of the one that serves these sizes best.
        """
        shapes = {spec.name: spec.shape_at(sizes) for spec in self.signature.inputs}
        with self._turns, on_device(self._options.on.device):
            self._require_open()
            return self._lane(shapes, profile).describe()

    def _close(self) -> None:
        with on_device(self._options.on.device):
            self._stream.drain()
            self._lanes.clear()
            self._read_by_gpu = {}
            self._engines.close()
            for pinned in self._pinned.values():
                pinned.close()
            self._stream.close()


def _require_room(array: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Raise SignatureError for an integer that the dtype of the engine cannot hold."""
    if array.dtype.kind == "i" and array.dtype.itemsize > dtype.itemsize and array.size:
        limits = np.iinfo(dtype)
        furthest = array.max() if array.max() > limits.max else array.min()
        if not limits.min <= furthest <= limits.max:
            raise SignatureError(
                f"input {name} holds {furthest}, and the engine reads {dtype}",
                remedy=f"Pass values from {limits.min} to {limits.max}, or use another backend.",
            )
