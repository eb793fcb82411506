"""The backend PyTorch: it opens a component's torch.export program and compiles it. Only opening imports torch."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torchlift.backends.base import Backend, Compilation, Session, SessionOptions
from torchlift.errors import BackendError, BackendUnavailableError
from torchlift.forms import Form, Recipe, by_name
from torchlift.machine import Availability, Gpu, gpus, this_machine
from torchlift.manifest import Precision
from torchlift.signature import Signature

PROGRAM = Form(
    "program",
    "export",
    model="model.pt2",
    missing="the bundle has no torch.export program; ship it with `backends=pytorch`, or export with `program=`",
)
"""The form of a component that torch.export wrote. It is exported from the network, not converted from ONNX. Its target
must have torch.
"""

_CPU_INSTRUCTIONS: dict[Precision, frozenset[str]] = {"bf16": frozenset({"avx512_bf16", "amx_bf16"})}
"""Precision -> instructions of a processor. With any one of them, the precision is faster than FP32."""

_CAPABILITIES: dict[Precision, float] = {"fp16": 5.3, "bf16": 8.0}
"""Precision -> the first compute capability of a GPU that computes in it."""


@dataclass(frozen=True)
class Build:
    """The installed torch: its ``version``, such as 2.11.0+cu130, and whether it was built for CUDA."""

    version: str
    cuda: bool


@functools.cache
def torch_build() -> Build | None:
    """The installed torch, read from ``torch/version.py`` without importing torch. None where there is none."""
    try:
        spec = importlib.util.find_spec("torch")
    except ImportError:
        return None
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    said = dict(re.findall(r"^(__version__|cuda)\b[^=\n]*=\s*'([^']*)'", text, re.MULTILINE))
    return Build(said["__version__"], "cuda" in said)


def gpu_of(options: SessionOptions | None = None) -> Gpu | None:
    """The GPU that a session runs on; None for the processor. A GPU is used where torch was built for CUDA.

    Raises BackendUnavailableError where there is no GPU of the number that ``options`` name.
    """
    build, here = torch_build(), gpus()
    if build is None or not build.cuda or not here:
        return None
    ordinal = options.on.device if options else 0
    if ordinal >= len(here):
        raise BackendUnavailableError(
            f"there is no GPU {ordinal}", remedy=f"The GPUs are 0..{len(here) - 1}; see CUDA_VISIBLE_DEVICES."
        )
    return here[ordinal]


class PyTorch(Backend):
    """Runs a component's exported program by torch.compile, on a GPU where there is one, else on the processor.

    The file holds the weights once, in FP32. They are cast when the program is opened. TF32 is off, so FP32 is FP32.
    The first run of a shape compiles the program for it, which takes seconds to a minute. torch has its own cache for
    that.
    """

    name = "pytorch"
    suffix = ".pt2"
    recipes: ClassVar[Mapping[str, Recipe]] = by_name(
        Recipe("fp32", "fp32", PROGRAM), Recipe("bf16", "bf16", PROGRAM), Recipe("fp16", "fp16", PROGRAM)
    )
    program: ClassVar[Form] = PROGRAM
    """The form of what :meth:`write_program` writes."""

    needs = "torch"
    asked_for = True
    opens_graphs = True
    replays = True

    def available(self) -> Availability:
        if torch_build() is None:
            return Availability(False, "torch is not installed", 'pip install "torchlift[torch]"')
        if gpu_of() and importlib.util.find_spec("triton") is None:
            return Availability(False, "triton is not installed, which compiles for the GPU", "pip install triton")
        return Availability(True, f"{self.version()}{'' if gpu_of() else ', CPU'}")

    def supports(self, recipe: str) -> Availability:
        if recipe not in self.recipes:
            return super().supports(recipe)
        precision, gpu = self.recipe(recipe).precision, gpu_of()
        if gpu is not None and float(gpu.capability) < _CAPABILITIES.get(precision, 0.0):
            return Availability(False, f"{gpu.name} does not compute in {precision}")
        if gpu is None and precision == "fp16":
            return Availability(False, "on a processor pytorch gains nothing by fp16")
        wanted = _CPU_INSTRUCTIONS.get(precision)
        if gpu is None and wanted and not wanted & {*this_machine().instructions}:
            return Availability(False, f"{this_machine().processor} has no {precision} instructions")
        return super().supports(recipe)

    def on_gpu(self) -> bool:
        return gpu_of() is not None

    def version(self) -> str:
        build, gpu = torch_build(), gpu_of()
        if build is None:
            return "torch"
        return f"torch {build.version} on {gpu}" if gpu else f"torch {build.version.partition('+')[0]}"

    def build(self, source: Path, folder: Path, signature: Signature, compilation: Compilation | None = None) -> str:
        raise BackendError(
            f"{self.name} opens a program as torch wrote it: nothing is built from {source.name}",
            remedy="Ship the model with `backends=pytorch`, or export it with `program=`.",
        )

    def open(
        self, model: Path, signature: Signature, recipe: str = "fp32", options: SessionOptions | None = None
    ) -> Session:
        self.require()
        self.require_kind(model)
        from torchlift.backends.pytorch.program import load_program
        from torchlift.backends.pytorch.rewrites import rewrite_for_gpu
        from torchlift.backends.pytorch.session import open_module

        program = load_program(model)
        if gpu_of(options) is not None:
            import torchlift.backends.pytorch.kernels  # noqa: F401, registers what attention then calls

            rewrite_for_gpu(program)
        return open_module(program, signature, options, precision=self.recipe(recipe).precision, compiled=True)

    def write_program(self, program: Any, file: Path) -> None:
        """Write a ``torch.export.ExportedProgram``; see :func:`torchlift.backends.pytorch.program.save_program`."""
        from torchlift.backends.pytorch.program import save_program

        save_program(program, file)

    def open_program(
        self,
        file: Path,
        signature: Signature,
        options: SessionOptions | None = None,
        *,
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> Session:
        """A session of a program as it is, to compare it with the network, or in its place."""
        from torchlift.backends.pytorch.program import load_program

        return self.open_module(load_program(file), signature, options, precision=precision, compiled=compiled)

    def open_module(
        self,
        module: Any,
        signature: Signature,
        options: SessionOptions | None = None,
        *,
        precision: Precision = "fp32",
        compiled: bool = False,
    ) -> Session:
        """A session of a ``torch.nn.Module``; see :func:`torchlift.backends.pytorch.session.open_module`."""
        from torchlift.backends.pytorch.session import open_module

        return open_module(module, signature, options, precision=precision, compiled=compiled)
