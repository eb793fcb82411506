"""Sessions of PyTorch on an NVIDIA GPU: copies to and from it, times by its clock, and CUDA graphs."""

from __future__ import annotations

import contextlib
import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchlift.backends.base import Arrays, Call, SessionOptions
from torchlift.backends.pytorch import gpu_of
from torchlift.backends.pytorch.cast import move
from torchlift.backends.pytorch.session import TorchSession
from torchlift.backends.staging import PIECE, stage
from torchlift.backends.turns import GPUS, DeviceTurns
from torchlift.errors import BackendError, BackendUnavailableError, DeviceMemoryError, SignatureError
from torchlift.manifest import Precision
from torchlift.signature import Signature, TensorSpec

_WARMUPS = 3
"""Runs before the one that is recorded. In the first, code is compiled, and libraries choose kernels and allocate."""


class GpuSession(TorchSession):
    """Runs a module on the GPU that ``options`` name.

    With ``options.cuda_graph`` each shape is recorded in its first run, and replayed with buffers of its own. The
    recordings of the last ``options.graphs`` shapes are kept. A module that computes the size of an output is not
    recorded.

    TF32 is switched off in the whole process, so FP32 is FP32.
    """

    on_device = True

    def __init__(
        self, module: nn.Module, signature: Signature, options: SessionOptions | None = None, **computing: Any
    ) -> None:
        options = options or SessionOptions()
        if signature.computes_sizes:
            options = replace(options, cuda_graph=False)
        with memory_errors():
            super().__init__(module, signature, options, **computing)
        self._turns = DeviceTurns()
        self.records = options.records
        self._recordings: OrderedDict[tuple[torch.Size, ...], Recording] = OrderedDict()
        self._pinned: dict[int, Tensor] = {}
        self._read_by_gpu: Mapping[str, Tensor] = {}
        """The inputs on the device that the last call was given. The GPU may still read them after that call returned.
        """

        self._memory = torch.cuda.graph_pool_handle() if options.cuda_graph else None
        self._aside = torch.cuda.Stream(self._device)

    def _describe(self, options: SessionOptions, precision: Precision, compiled: bool) -> str:
        graphs = " with CUDA graphs" if options.cuda_graph else ""
        return f"{super()._describe(options, precision, compiled)}{graphs} on {gpu_of(options)}"

    def _place(self, module: nn.Module, options: SessionOptions) -> torch.device:
        if not torch.cuda.is_available():
            raise BackendUnavailableError(
                f"torch {torch.__version__} cannot use {gpu_of(options)}",
                remedy="Install a torch for this driver, or hide the GPU: CUDA_VISIBLE_DEVICES= torchlift ...",
            )
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        device = torch.device("cuda", options.on.device)
        move(module, device, self._dtype)
        return device

    def _run_on_device(self, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        """Run tensors on the device, which must have the signature's dtypes, on torch's current stream.

        Inputs are read where they lie. A recording reads fixed addresses, so with CUDA graphs they are copied there.
        """
        with self._current():
            lent = {name: self._shared(name, tensor) for name, tensor in tensors.items()}
            self.signature.check_shapes({name: tuple(tensor.shape) for name, tensor in lent.items()})
            inputs = tuple(self._of_dtype(spec, lent[spec.name]) for spec in self.signature.inputs)
            self._read_by_gpu = lent
            if self.records:
                outputs = self._record(inputs).replay()
            else:
                outputs = self._compute(self._function(inputs), inputs)
        return dict(zip(self.signature.output_names, outputs, strict=True))

    def _shared(self, name: str, tensor: Any) -> Tensor:
        """A caller's tensor as a torch tensor in the same memory. Raises SignatureError where it is not on this GPU."""
        try:
            shared = torch.from_dlpack(tensor) if hasattr(tensor, "__dlpack__") else torch.as_tensor(tensor)
        except torch.AcceleratorError:
            raise  # an error of earlier work on the GPU, not of this tensor
        except (RuntimeError, TypeError, ValueError, BufferError) as error:
            raise SignatureError(
                f"input {name} cannot be read: {error}", remedy="Pass a dense tensor without a gradient."
            ) from error
        if shared.device != self._device:
            raise SignatureError(
                f"input {name} lies on {shared.device}, and the session on {self._device}",
                remedy="Pass it to run(), which copies it." if shared.is_cpu else f"Copy it to {self._device}.",
            )
        return shared.contiguous()

    def _of_dtype(self, spec: TensorSpec, tensor: Tensor) -> Tensor:
        if tensor.dtype != getattr(torch, spec.dtype):
            raise SignatureError(
                f"input {spec.name} is {str(tensor.dtype).removeprefix('torch.')}, and the model reads {spec.dtype}",
                remedy=f"Convert it to {spec.dtype}.",
            )
        return tensor

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        with self._current():
            return super()._run(feeds)

    def _prepare(self, feeds: Arrays) -> Call:
        with self._current():
            launch = self._bind(feeds)
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def call() -> float:
            with self._current():
                start.record()
                launch()
                end.record()
                end.synchronize()
            return float(start.elapsed_time(end)) / 1000

        return call

    def _bind(self, feeds: Arrays) -> Callable[[], tuple[Tensor, ...]]:
        return self._record(self._tensors(feeds)).replay if self.records else super()._bind(feeds)

    def _record(self, tensors: Sequence[Tensor]) -> Recording:
        """The recording for inputs of these shapes, with the inputs in its buffers."""
        shapes = tuple(tensor.shape for tensor in tensors)
        recording = self._recordings.get(shapes)
        if recording is None:
            while len(self._recordings) >= self.records:
                self._recordings.popitem(last=False)
            inputs = self._moved(tensors)
            compute = partial(self._compute, self._function(inputs), inputs)
            try:
                recording = self._recordings[shapes] = Recording(compute, inputs, self._aside, self._memory)
            except (BackendError, torch.OutOfMemoryError):
                # torch counts the failed recording in the old pool as unfinished
                self._memory = torch.cuda.graph_pool_handle()
                raise
        else:
            self._recordings.move_to_end(shapes)
            self._upload(tensors, recording.inputs)
        return recording

    def _moved(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        moved = tuple(torch.empty_like(tensor, device=self._device) for tensor in tensors)
        self._upload(tensors, moved)
        return moved

    @torch.inference_mode()
    def _upload(self, tensors: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
        """Copy inputs to the buffers that the module reads.

        Large arrays of the host are copied in pieces by way of page-locked memory. That memory is free again when this
        returns.
        """
        for place, (tensor, buffer) in enumerate(zip(tensors, buffers, strict=True)):
            if tensor.is_cuda or tensor.nbytes <= PIECE:
                buffer.copy_(tensor)
                continue
            staged = self._page_locked(place, tensor)
            stage(tensor.numpy(), staged.numpy(), partial(_send, staged.view(-1), buffer.view(-1)))
            torch.cuda.current_stream().synchronize()

    def _page_locked(self, place: int, tensor: Tensor) -> Tensor:
        """Page-locked memory for input number ``place``, in the form of ``tensor``. It grows when more is asked for."""
        held = self._pinned.get(place)
        if held is None or held.nbytes < tensor.nbytes:
            held = self._pinned[place] = torch.empty(tensor.nbytes, dtype=torch.uint8, pin_memory=True)
        return held[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        with torch.cuda.device(self._device), memory_errors():
            yield

    def _close(self) -> None:
        super()._close()
        self._recordings.clear()
        self._pinned.clear()
        self._read_by_gpu = {}
        gc.collect()  # compiled functions refer to each other in cycles
        torch.cuda.empty_cache()


def _send(source: Tensor, target: Tensor, part: slice) -> None:
    target[part].copy_(source[part], non_blocking=True)


class Recording:
    """A recording (CUDA graph) of ``compute``, which reads ``inputs``.

    It is recorded on the stream ``aside``, since CUDA records no work on the default stream. All recordings of a
    session use the same ``memory`` for their results. So the results of one must be read before another is replayed.
    """

    def __init__(
        self, compute: Callable[[], tuple[Tensor, ...]], inputs: Sequence[Tensor], aside: torch.cuda.Stream, memory: Any
    ) -> None:
        self.inputs = inputs
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARMUPS):
                compute()
        torch.cuda.current_stream().wait_stream(aside)
        self._recording = torch.cuda.CUDAGraph()
        with (
            GPUS.alone(),
            _recording_errors(aside.device, memory),
            torch.cuda.graph(self._recording, pool=memory, stream=aside, capture_error_mode="thread_local"),
        ):
            self._outputs = compute()

    def replay(self) -> tuple[Tensor, ...]:
        """Run it once; returns the outputs. The next replay of any recording of the session may overwrite them."""
        self._recording.replay()
        return self._outputs


@contextlib.contextmanager
def _recording_errors(device: torch.device, memory: Any) -> Iterator[None]:
    """Raise BackendError where work cannot be recorded, for example since it waits for the GPU, and clean up after
    torch.

    When a recording fails, torch's ``graph`` fails a second time as it ends. That second error hides the cause. torch's
    current stream stays the one that was recorded, and in torch 2.11 the allocator stays in the recording's memory
    (pytorch #180395). Here the cause is found, and both are set back.
    """
    stream = torch.cuda.current_stream()
    try:
        yield
    except RuntimeError as error:
        torch.cuda.set_stream(stream)
        with contextlib.suppress(AttributeError, RuntimeError):  # private; fails where the allocator has left
            torch._C._cuda_endAllocateToPool(device.index, memory)
        cause = error.__context__ or error
        if isinstance(cause, torch.OutOfMemoryError):
            raise cause from None
        raise BackendError(
            f"no CUDA graph could be recorded: {str(cause).partition(chr(10))[0]}",
            remedy="Open the session without CUDA graphs.",
        ) from error


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raise DeviceMemoryError in place of torch's error for a full GPU."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"the GPU's memory does not suffice: {str(error).partition('. GPU')[0]}",
            remedy="Use smaller batches, or stop what else runs on the GPU.",
        ) from error
