"""PyTorch itself, the reference: an nn.Module behind the session's contract, eager or compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from torchlift.backends.base import Arrays, Call, Session, SessionOptions
from torchlift.signature import Signature


class TorchSession(Session):
    """Runs ``module`` in inference mode on the CPU. ``compiled`` passes it through torch.compile."""

    def __init__(
        self, module: nn.Module, signature: Signature, options: SessionOptions | None = None, *, compiled: bool = False
    ) -> None:
        super().__init__(signature, f"torch {torch.__version__} {'compile' if compiled else 'eager'}")
        torch.set_num_threads((options or SessionOptions()).cores)
        self._module: Callable = torch.compile(module.eval()) if compiled else module.eval()

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = self._module(*self._arguments(feeds))
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        return {name: t.numpy() for name, t in zip(self.signature.output_names, tensors, strict=True)}

    def _prepare(self, feeds: Arrays) -> Call:
        arguments = self._arguments(feeds)
        module = self._module

        def call() -> None:
            with torch.inference_mode():
                module(*arguments)

        return call

    def _arguments(self, feeds: Arrays) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(np.asarray(feeds[n], order="C")) for n in self.signature.input_names)
