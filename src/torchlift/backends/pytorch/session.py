"""Sessions of PyTorch on the processor, eager or compiled for each shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from torchlift.backends.base import Arrays, Call, Session, SessionOptions
from torchlift.backends.pytorch import gpu_of
from torchlift.backends.pytorch.cast import move
from torchlift.backends.pytorch.program import copy_of
from torchlift.manifest import Precision
from torchlift.signature import Signature

Function = Callable[..., Tensor | Sequence[Tensor]]

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_RECOMPILATIONS = 64
"""How often the function for all shapes may be compiled. torch compiles it again for sizes of 1 and for sizes that are
equal by chance. With several axes these are more cases than its default limit of 8."""


def open_module(
    module: nn.Module,
    signature: Signature,
    options: SessionOptions | None = None,
    *,
    precision: Precision = "fp32",
    compiled: bool = False,
) -> TorchSession:
    """A session of a float32 module.

    The module belongs to the session from then on: it is put in eval mode, moved to the GPU where torch has one, and
    cast to ``precision``. ``compiled`` passes it through torch.compile.

    Raises BackendUnavailableError for a GPU that is not there, DeviceMemoryError where its memory does not suffice.
    """
    if gpu_of(options) is None:
        return TorchSession(module, signature, options, precision=precision, compiled=compiled)
    from torchlift.backends.pytorch.gpu import GpuSession

    return GpuSession(module, signature, options, precision=precision, compiled=compiled)


class TorchSession(Session):
    """Runs a module in inference mode on the processor.

    Inputs and outputs have the signature's dtypes, whatever the module computes in. Threads take turns, since a module
    may keep state between calls, and one call uses all its cores anyway. torch has one number of threads for the whole
    process: the session that was opened last sets it.
    """

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        options: SessionOptions | None = None,
        *,
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> None:
        options = options or SessionOptions()
        super().__init__(signature, self._describe(options, precision, compiled))
        torch.set_num_threads(options.on.cores)
        self._dtype = _DTYPES[precision]
        self._dtypes = tuple(getattr(torch, spec.dtype) for spec in signature.outputs)
        self._device = self._place(module.eval(), options)
        self._module: Any = module
        self._compiled = Compiled(module, signature, options.graphs) if compiled else None

    def _describe(self, options: SessionOptions, precision: Precision, compiled: bool) -> str:
        kind = "" if precision == "fp32" else f"{precision} "
        return f"torch {torch.__version__} {kind}{'compile' if compiled else 'eager'}"

    def _place(self, module: nn.Module, options: SessionOptions) -> torch.device:
        """Move and cast the module; returns its device."""
        device = torch.device("cpu")
        move(module, device, self._dtype)
        return device

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        outputs = self._bind(feeds)()
        return {name: t.cpu().numpy() for name, t in zip(self.signature.output_names, outputs, strict=True)}

    def _prepare(self, feeds: Arrays) -> Call:
        launch = self._bind(feeds)

        def call() -> None:
            launch()

        return call

    def _bind(self, feeds: Arrays) -> Callable[[], tuple[Tensor, ...]]:
        """Move ``feeds`` to the module's device. Each call of the function that is returned computes their outputs."""
        inputs = self._moved(self._tensors(feeds))
        return partial(self._compute, self._function(inputs), inputs)

    def _moved(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inputs on the module's device."""
        return tuple(tensors)

    def _tensors(self, feeds: Arrays) -> tuple[Tensor, ...]:
        """The inputs by position. They share the memory of arrays in C order; others are copied."""
        return tuple(torch.from_numpy(np.asarray(feeds[name], order="C")) for name in self.signature.input_names)

    def _function(self, inputs: Sequence[Tensor]) -> Function:
        """The module, or the function that it was compiled to for inputs of these shapes."""
        return self._module if self._compiled is None else self._compiled.function(inputs)

    def _compute(self, function: Function, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            given = (t.to(self._dtype) if t.dtype == torch.float32 else t for t in inputs)
            outputs = function(*given)
            tensors = (outputs,) if isinstance(outputs, Tensor) else outputs
            return tuple(t.to(dtype) for t, dtype in zip(tensors, self._dtypes, strict=True))

    def _close(self) -> None:
        self._module = self._compiled = None


class Compiled:
    """The functions that torch.compile makes of a module.

    Each of the first ``limit`` shapes has a function of its own, in which all sizes are constants. All further shapes
    share one function, in which the signature's axes may vary.
    """

    def __init__(self, module: nn.Module, signature: Signature, limit: int) -> None:
        self._module = module
        self._limit = limit
        self._axes = [[i for i, dim in enumerate(spec.shape) if isinstance(dim, str)] for spec in signature.inputs]
        self._static: dict[tuple[torch.Size, ...], Function] = {}
        self._dynamic: Function | None = None

    def function(self, inputs: Sequence[Tensor]) -> Function:
        """The function for inputs of these shapes."""
        shapes = tuple(t.shape for t in inputs)
        if shapes not in self._static:
            if len(self._static) >= self._limit:
                if self._dynamic is None:
                    self._dynamic = self._compile(dynamic=None)
                return self._for_all
            self._static[shapes] = self._compile(dynamic=False)
        return self._static[shapes]

    def _for_all(self, *inputs: Tensor) -> Tensor | Sequence[Tensor]:
        assert self._dynamic is not None
        for tensor, axes in zip(inputs, self._axes, strict=True):
            torch._dynamo.maybe_mark_dynamic(tensor, axes)
        with torch._dynamo.config.patch(recompile_limit=_RECOMPILATIONS):
            return self._dynamic(*inputs)

    def _compile(self, *, dynamic: bool | None) -> Function:
        """Compile the module. torch limits how often it compiles the same Python code, so a program is copied first."""
        if isinstance(self._module, GraphModule):
            return torch.compile(copy_of(self._module), dynamic=dynamic, fullgraph=True)
        return torch.compile(self._module, dynamic=dynamic)
