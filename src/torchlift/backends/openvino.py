"""OpenVINO on the processor: converts ONNX to IR, and runs it at the precision that was asked for, not its default."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from torchlift.backends.base import (
    Arrays,
    Availability,
    Backend,
    Call,
    Compilation,
    LayerTime,
    Session,
    SessionOptions,
)
from torchlift.errors import BackendError, ProviderError
from torchlift.machine import installed_version, this_machine
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
"""Recipe -> INFERENCE_PRECISION_HINT, the type of what the graph leaves in floating point. OpenVINO computes in bf16
wherever the processor can, unless told f32."""

_SHARED = {"bf16": "fp32", "int8-bf16": "int8", "int8-nncf-bf16": "int8-nncf"}
"""Recipes that are served by the files of another, and differ when they are opened."""

_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8", "s8": "int8"}
"""The last part of a kernel's name, such as brgemm_avx512_bf16 -> precision."""

_BF16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


class OpenVino(Backend):
    """Intel's runtime. What the graph leaves in FP32 is computed in bf16 where the recipe says so, by the same IR."""

    name = "openvino"
    recipes: ClassVar[Mapping[str, str]] = {
        "fp32": "fp32",
        "bf16": "fp32",
        "int8": "int8-s8s8",
        "int8-bf16": "int8-s8s8",
        "int8-nncf": "int8-nncf",
        "int8-nncf-bf16": "int8-nncf",
    }

    def available(self) -> Availability:
        remedy = 'pip install "torchlift[openvino]"'
        if installed_version("openvino") is None:
            return Availability(False, "openvino is not installed", remedy)
        try:
            import openvino as ov
        except ImportError as error:
            return Availability(False, f"it cannot be loaded: {error}", remedy)
        if _DEVICE not in ov.Core().available_devices:
            return Availability(False, "its CPU plug-in is missing", remedy)
        return Availability(True, f"{self.version()}, {_DEVICE}")

    def supports(self, recipe: str) -> Availability:
        if _HINTS.get(recipe) == "bf16" and not _BF16_INSTRUCTIONS & set(this_machine().instructions):
            return Availability(False, f"{this_machine().processor} has no bf16 instructions")
        return super().supports(recipe)

    def version(self) -> str:
        return f"openvino {installed_version('openvino')}"

    def artifact(self, recipe: str) -> str:
        return _SHARED.get(recipe, recipe)

    def build(self, source: Path, folder: Path, signature: Signature, compilation: Compilation | None = None) -> str:
        self.require()
        import openvino as ov

        try:
            model = ov.Core().read_model(source) if source.suffix == ".xml" else ov.convert_model(source)
            _forget_origin(model)
            ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
        except Exception as error:
            raise BackendError(
                f"OpenVINO cannot convert {source.name}: {error}", remedy="Use another backend, or another --opset."
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
        """What OpenVINO left out of a run is left out here."""
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
        import openvino as ov

        config = {
            "INFERENCE_PRECISION_HINT": _HINTS[recipe],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": options.cores,
            **more,
        }
        try:
            return ov.Core().compile_model(model, _DEVICE, config)
        except Exception as error:
            raise BackendError(
                f"OpenVINO cannot load {model.name}: {error}", remedy="Build the variant again: torchlift build."
            ) from error


def _origins(op: ov.Node) -> tuple[str, ...]:
    """The nodes that a layer was made of, by the names that they had when the model was read."""
    said = op.get_rt_info()
    names = said["originalLayersNames"].astype(str) if "originalLayersNames" in said else ""
    return tuple(name for name in names.split(",") if name)


def _precision(kernel: str) -> str:
    kind = kernel.rpartition("_")[2]
    return _PRECISIONS.get(kind, kind)


def _forget_origin(model: ov.Model) -> None:
    """Drop what the converter notes of the machine that it ran on, such as the path of the ONNX file."""
    for path in (["conversion_parameters"], ["framework"]):
        if model.has_rt_info(path):
            model.set_rt_info("", path)


class OpenVinoSession(Session):
    """A compiled model with one inference request; one thread at a time."""

    def __init__(self, compiled: ov.CompiledModel, signature: Signature, runtime: str) -> None:
        super().__init__(signature, runtime)
        self._request: Any = compiled.create_infer_request()
        self._outputs = {name: compiled.output(name) for name in signature.output_names}

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        result = self._request.infer(dict(feeds), share_inputs=True, share_outputs=False)
        return {name: result[port] for name, port in self._outputs.items()}

    def _prepare(self, feeds: Arrays) -> Call:
        import openvino as ov

        request = self._request
        arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        for name, array in arrays.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))

        def call() -> None:
            _ = arrays  # the request reads their memory
            request.infer()

        return call

    def close(self) -> None:
        self._request = None
        self._outputs = {}
