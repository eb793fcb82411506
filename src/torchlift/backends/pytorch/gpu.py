"""The same on an NVIDIA GPU: copies to it and back, its own clock, and CUDA graphs."""

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
"""Runs before one is recorded: in the first, what is compiled is, and libraries choose kernels and get workspace."""


class GpuSession(TorchSession):
    """Runs a module on the GPU that ``options`` name. With ``options.cuda_graph`` each shape is recorded in its first
    run, and replayed on buffers of its own; of the shapes, the last ``options.graphs`` are kept. A module that computes
    an output's size runs without.

    FP32 is FP32: TF32 is switched off, in the whole process.
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
        self._recorded: OrderedDict[tuple[torch.Size, ...], Recorded] = OrderedDict()
        self._pinned: dict[int, Tensor] = {}
        self._lent: Mapping[str, Tensor] = {}
        """What the last call was given on the device: kept until the next, since it returned before that was read."""

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
        """Of the signature's dtypes; work goes to torch's current stream. Inputs are read where they lie, or with a
        CUDA graph copied on the device to where that reads them.
        """
        with self._current():
            lent = {name: self._shared(name, tensor) for name, tensor in tensors.items()}
            self.signature.check_shapes({name: tuple(tensor.shape) for name, tensor in lent.items()})
            inputs = tuple(self._of_dtype(spec, lent[spec.name]) for spec in self.signature.inputs)
            self._lent = lent
            if self.records:
                outputs = self._record(inputs).replay()
            else:
                outputs = self._compute(self._function(inputs), inputs)
        return dict(zip(self.signature.output_names, outputs, strict=True))

    def _shared(self, name: str, tensor: Any) -> Tensor:
        """A tensor of a caller, in its own memory. Raises SignatureError for one that does not lie on this GPU."""
        try:
            shared = torch.from_dlpack(tensor) if hasattr(tensor, "__dlpack__") else torch.as_tensor(tensor)
        except torch.AcceleratorError:
            raise  # of work that was given to the GPU before
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

    def _record(self, tensors: Sequence[Tensor]) -> Recorded:
        """The record for inputs of these shapes, with the inputs in its buffers."""
        shapes = tuple(tensor.shape for tensor in tensors)
        recorded = self._recorded.get(shapes)
        if recorded is None:
            while len(self._recorded) >= self.records:
                self._recorded.popitem(last=False)
            inputs = self._moved(tensors)
            compute = partial(self._compute, self._function(inputs), inputs)
            try:
                recorded = self._recorded[shapes] = Recorded(compute, inputs, self._aside, self._memory)
            except (BackendError, torch.OutOfMemoryError):
                self._memory = torch.cuda.graph_pool_handle()  # torch takes the recording in this one for unfinished
                raise
        else:
            self._recorded.move_to_end(shapes)
            self._upload(tensors, recorded.inputs)
        return recorded

    def _moved(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        moved = tuple(torch.empty_like(tensor, device=self._device) for tensor in tensors)
        self._upload(tensors, moved)
        return moved

    @torch.inference_mode()
    def _upload(self, tensors: Sequence[Tensor], buffers: Sequence[Tensor]) -> None:
        """Copy inputs to where they are read, large ones of the host in pieces by page-locked memory, which is free
        again when this returns.
        """
        for place, (tensor, buffer) in enumerate(zip(tensors, buffers, strict=True)):
            if tensor.is_cuda or tensor.nbytes <= PIECE:
                buffer.copy_(tensor)
                continue
            staged = self._page_locked(place, tensor)
            stage(tensor.numpy(), staged.numpy(), partial(_send, staged.view(-1), buffer.view(-1)))
            torch.cuda.current_stream().synchronize()

    def _page_locked(self, place: int, tensor: Tensor) -> Tensor:
        """Memory for an input, which grows when more is asked for."""
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
        self._recorded.clear()
        self._pinned.clear()
        self._lent = {}
        gc.collect()  # compiled functions lie in cycles
        torch.cuda.empty_cache()


def _send(source: Tensor, target: Tensor, part: slice) -> None:
    target[part].copy_(source[part], non_blocking=True)


class Recorded:
    """A CUDA graph of ``compute``, which reads ``inputs``, recorded on the stream ``aside``: work that is recorded may
    not be on the default one. The graphs of a session take turns with the ``memory`` that they compute in, so that what
    one leaves must be read before another runs.
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
        self._graph = torch.cuda.CUDAGraph()
        with (
            GPUS.alone(),
            _recording_errors(aside.device, memory),
            torch.cuda.graph(self._graph, pool=memory, stream=aside, capture_error_mode="thread_local"),
        ):
            self._outputs = compute()

    def replay(self) -> tuple[Tensor, ...]:
        """The outputs, which the next replay of any graph of the session may overwrite."""
        self._graph.replay()
        return self._outputs


@contextlib.contextmanager
def _recording_errors(device: torch.device, memory: Any) -> Iterator[None]:
    """Turn what cannot be recorded, such as work that waits for the GPU, into BackendError, and leave torch as it was.

    The end of a recording that failed fails too, which hides the cause, keeps the stream (torch's ``graph`` does not
    reach the code that restores it) and, in torch 2.11, the allocator in the recording's memory (pytorch #180395).
    """
    stream = torch.cuda.current_stream()
    try:
        yield
    except RuntimeError as error:
        torch.cuda.set_stream(stream)
        with contextlib.suppress(AttributeError, RuntimeError):  # it is private, and fails where nothing is left to end
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
    """Turn torch's error for a full GPU into DeviceMemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"the GPU's memory does not suffice: {str(error).partition('. GPU')[0]}",
            remedy="Use smaller batches, or stop what else runs on the GPU.",
        ) from error
