"""The backend OpenVINO, on the processor. It converts ONNX to IR, and runs it in the precision that was asked for."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from torchlift.backends.base import (
    Arrays,
    Backend,
    Call,
    Compilation,
    LayerTime,
    Session,
    SessionOptions,
)
from torchlift.errors import BackendError, ProviderError
from torchlift.forms import INT8_S8S8, SOURCE, Form, Recipe, by_name
from torchlift.machine import Availability, installed_version, this_machine, usable_cores
from torchlift.signature import Signature

if TYPE_CHECKING:
    import openvino as ov

_DEVICE = "CPU"
_HINTS: dict[str, str] = {
    "fp32": "f32",
    "bf16": "bf16",
    "int8": "f32",
    "int8-bf16": "bf16",
    "int8-nncf": "f32",
    "int8-nncf-bf16": "bf16",
}
"""Recipe -> INFERENCE_PRECISION_HINT, the type in which OpenVINO computes what the graph has in floating point. Without
a hint it computes in bf16 wherever the processor can."""

_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8", "s8": "int8"}
"""The last part of a kernel's name, such as ``bf16`` of brgemm_avx512_bf16, -> precision."""

_BF16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

_STARTING = threading.Lock()


def _nncf_available() -> Availability:
    """Whether NNCF is installed and OpenVINO works, of which it needs both."""
    release = installed_version("nncf")
    if release is None:
        return Availability(False, "nncf is not installed", "pip install nncf")
    state = OpenVino().available()
    return Availability(True, f"nncf {release}") if state.ok else state


INT8_NNCF = Form("int8-nncf", "nncf", model="model.xml", calibrated=True, available=_nncf_available)
"""OpenVINO's own format, as Intel's NNCF quantises it. It is made whole, never in part."""


_IN_THE_CALLER = {"NUM_STREAMS": 0}
"""Run in the thread that calls. With one thread of its own OpenVINO 2026.4.1 loses an error: a run that fails, such as
a Reshape to a shape that does not fit, gives the answers of the run before.
"""


class OpenVino(Backend):
    """Intel's runtime. FP32 and BF16 are served by the same IR.

    The precision is chosen when a variant is opened: it is the type in which what the graph has in FP32 is computed.
    """

    name = "openvino"
    suffix = ".xml"
    recipes: ClassVar[Mapping[str, Recipe]] = by_name(
        Recipe("fp32", "fp32", SOURCE),
        Recipe("bf16", "bf16", SOURCE, shares="fp32"),
        Recipe("int8", "int8", INT8_S8S8),
        Recipe("int8-bf16", "int8", INT8_S8S8, shares="int8"),
        Recipe("int8-nncf", "int8", INT8_NNCF),
        Recipe("int8-nncf-bf16", "int8", INT8_NNCF, shares="int8-nncf"),
    )

    def available(self) -> Availability:
        remedy = 'pip install "torchlift[openvino]"'
        if installed_version("openvino") is None:
            return Availability(False, "openvino is not installed", remedy)
        try:
            devices = _core().available_devices
        except ImportError as error:
            return Availability(False, f"it cannot be loaded: {error}", remedy)
        if _DEVICE not in devices:
            return Availability(False, "its CPU plug-in is missing", remedy)
        return Availability(True, f"{self.version()}, {_DEVICE}")

    def supports(self, recipe: str) -> Availability:
        if _HINTS.get(recipe) == "bf16" and not _BF16_INSTRUCTIONS & set(this_machine().instructions):
            return Availability(False, f"{this_machine().processor} has no bf16 instructions")
        return super().supports(recipe)

    def version(self) -> str:
        return f"openvino {installed_version('openvino')}"

    def build(self, source: Path, folder: Path, signature: Signature, compilation: Compilation | None = None) -> str:
        self.require()
        import openvino as ov

        try:
            with _without_telemetry():
                model = _core().read_model(source) if source.suffix == ".xml" else ov.convert_model(source)
            _forget_origin(model)
            ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
        except Exception as error:
            raise BackendError(
                f"OpenVINO cannot convert {source.name}: {error}", remedy="Use another backend, or another `opset=`."
            ) from error
        return "model.xml"

    def open(
        self, model: Path, signature: Signature, recipe: str = "fp32", options: SessionOptions | None = None
    ) -> Session:
        compiled = self._compiled(model, recipe, options or SessionOptions())
        device = ",".join(compiled.get_property("EXECUTION_DEVICES"))
        computes = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if device != _DEVICE or computes != _HINTS[recipe]:
            raise ProviderError(
                f"{_DEVICE} at {_HINTS[recipe]} was asked for, OpenVINO would run on {device} at {computes}",
                remedy="See `torchlift doctor` for what this machine runs.",
            )
        return OpenVinoSession(compiled, signature, f"{self.version()} {_DEVICE} {computes}")

    def _layers(
        self, model: Path, signature: Signature, feeds: Arrays, recipe: str, options: SessionOptions, runs: int
    ) -> list[LayerTime]:
        """The layers that OpenVINO executed. Nodes that it skipped have no entry."""
        compiled = self._compiled(model, recipe, options, PERF_COUNT=True)
        request = compiled.create_infer_request()
        request.infer(dict(feeds))
        spent: dict[str, float] = defaultdict(float)
        for _ in range(runs):
            request.infer(dict(feeds))
            for part in request.get_profiling_info():
                spent[part.node_name] += part.real_time.total_seconds()
        made_of = {op.get_friendly_name(): _origins(op) for op in compiled.get_runtime_model().get_ops()}
        return [
            LayerTime(
                part.node_name,
                part.node_type,
                made_of.get(part.node_name, ()),
                _precision(part.exec_type),
                spent[part.node_name] / runs,
                _DEVICE,
            )
            for part in request.get_profiling_info()
            if part.status == part.Status.EXECUTED
        ]

    def _compiled(self, model: Path, recipe: str, options: SessionOptions, **more: object) -> ov.CompiledModel:
        self.require()
        self.require_kind(model)
        config = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.recipe(recipe).name],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": options.on.cores,
            **(_IN_THE_CALLER if min(options.on.cores, usable_cores()) == 1 else {}),
            **more,
        }
        try:
            return _core().compile_model(model, _DEVICE, config)
        except Exception as error:
            raise BackendError(
                f"OpenVINO cannot load {model.name}: {error}", remedy="Build the variant again: torchlift build."
            ) from error


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """OpenVINO tells a server that it was imported and what it converts, and writes to the user's home; not with CI."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        os.environ.pop("CI")
        if before is not None:
            os.environ["CI"] = before


def _core() -> ov.Core:
    """The one OpenVINO core of this process. The first thread that needs it starts it."""
    with _STARTING:
        return _started()


@functools.cache
def _started() -> ov.Core:
    """Start OpenVINO, and make it read one array. The core is never let go. Both avoid faults of OpenVINO 2026.4.1.

    A crash: its plug-in for processors gives the thread that loads it a stack for signal handlers. It frees that stack
    when it is unloaded, after the last session is gone. If another thread lets that session go, the first thread keeps
    a pointer to the freed stack, and crashes at its next signal, such as Ctrl-C. A core that is kept also keeps the
    plug-in loaded.

    A deadlock: its Python binding makes tables of types at the first array. If several threads bring their first arrays
    at once, one waits for a table while it holds the GIL, and the one that makes the table waits for the GIL. So one
    array is made here, while no other thread uses OpenVINO.
    """
    with _without_telemetry():
        import openvino as ov

    _ = ov.Tensor(np.zeros(1, np.float32)).data
    return ov.Core()


def _origins(op: ov.Node) -> tuple[str, ...]:
    """The names of the original nodes that a layer was made of."""
    said = op.get_rt_info()
    names = said["originalLayersNames"].astype(str) if "originalLayersNames" in said else ""
    return tuple(name for name in names.split(",") if name)


def _precision(kernel: str) -> str:
    kind = kernel.rpartition("_")[2]
    return _PRECISIONS.get(kind, kind)


def _forget_origin(model: ov.Model) -> None:
    """Remove the converter's notes on the machine, such as the path of the ONNX file."""
    for path in (["conversion_parameters"], ["framework"]):
        if model.has_rt_info(path):
            model.set_rt_info("", path)


class OpenVinoSession(Session):
    """Runs a compiled model. Each call has an inference request of its own. OpenVINO queues those of several threads.

    A new request makes its first call some 20 microseconds slower. So the last request is kept for the next call. It
    also keeps the arrays that it has read.
    """

    reentrant = True

    def __init__(self, compiled: ov.CompiledModel, signature: Signature, runtime: str) -> None:
        super().__init__(signature, runtime)
        try:
            outputs = {name: compiled.output(name) for name in signature.output_names}
        except RuntimeError as error:
            raise BackendError(
                f"{runtime} has no outputs {', '.join(signature.output_names)}: {error}",
                remedy="Build the variant again: torchlift build.",
            ) from error
        self._opened: tuple[Any, dict[str, Any]] | None = (compiled, outputs)
        self._idle: deque[Any] = deque(maxlen=1)

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        compiled, outputs = self._kept(self._opened)
        request = self._request(compiled)
        result = request.infer(dict(feeds), share_inputs=True, share_outputs=False)
        answers = {name: result[port] for name, port in outputs.items()}
        self._idle.append(request)  # only after it succeeded: a failed request is not used again
        return answers

    def _request(self, compiled: Any) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return compiled.create_infer_request()

    def _prepare(self, feeds: Arrays) -> Call:
        import openvino as ov

        compiled, _ = self._kept(self._opened)
        request = compiled.create_infer_request()
        arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        for name, array in arrays.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))

        def call() -> None:
            _ = arrays  # keeps the inputs alive: the request reads their memory
            request.infer()

        return call

    def _close(self) -> None:
        self._opened = None
        self._idle = deque(maxlen=0)  # drops what a call that is still under way gives back
