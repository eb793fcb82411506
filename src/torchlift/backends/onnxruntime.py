"""ONNX Runtime: builds the optimised graph, opens it with one provider, and proves that this provider runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from torchlift.backends.base import Arrays, Availability, Backend, Call, Compilation, Session, SessionOptions
from torchlift.errors import BackendError, ProviderError
from torchlift.machine import installed_version
from torchlift.signature import Signature

if TYPE_CHECKING:
    import onnxruntime as ort

_WEIGHTS = "model.onnx.data"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_INLINE_BYTES = 1024
"""Initialisers up to this size stay in the graph's own file."""


class OnnxRuntime(Backend):
    """ONNX Runtime with one execution provider.

    The optimised graph is saved after the optimisations that hold for any processor; layouts for the processor at hand
    (NCHWc) are made when it is opened.

    A session whose first provider is another than ``provider`` is refused. That says which provider was registered, not
    which runs each node: nodes that it lacks run on the processor, and this is not checked yet.
    """

    provider: ClassVar[str]
    provider_options: ClassVar[Mapping[str, str]] = {}
    device: ClassVar[str] = "cpu"
    """Where inputs and outputs lie while a prepared call runs."""

    disabled_optimizers: ClassVar[tuple[str, ...]] = ()
    """ONNX Runtime's own optimisations that make the model slower here."""

    distributions: ClassVar[tuple[str, ...]]
    remedy: ClassVar[str]
    """How to install it."""

    recipes: ClassVar[Mapping[str, str]] = {"fp32": "fp32"}

    def available(self) -> Availability:
        if self._installed() is None:
            return Availability(False, f"{' or '.join(self.distributions)} is not installed", self.remedy)
        try:
            import onnxruntime as ort
        except ImportError as error:
            return Availability(False, f"it cannot be loaded: {error}", self.remedy)
        offered = ort.get_available_providers()
        if self.provider not in offered:
            return Availability(
                False, f"the installed build has no {self.provider}, only {', '.join(offered)}", self.remedy
            )
        return Availability(True, f"{self.version()}, {self.provider}")

    def _installed(self) -> str | None:
        return next((v for d in self.distributions if (v := installed_version(d))), None)

    def version(self) -> str:
        return f"onnxruntime {self._installed()}"

    def build(self, source: Path, folder: Path, signature: Signature, compilation: Compilation | None = None) -> str:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(folder / "model.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _WEIGHTS)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", str(_INLINE_BYTES)
        )
        self._session(source, options, self._fused(source, options))
        return "model.onnx"

    def _fused(self, source: Path, options: ort.SessionOptions) -> bytes | None:
        """The graph after the fusions that ONNX Runtime lacks, None where there are none; its weights stay where they
        are, and ``options`` says where that is.
        """
        from torchlift.graph.fusion import fuse_file

        fused = fuse_file(source, self.name)
        if fused is None:
            return None
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(source.parent.absolute()))
        return fused.graph

    def open(
        self, model: Path, signature: Signature, recipe: str = "fp32", options: SessionOptions | None = None
    ) -> Session:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = (options or SessionOptions()).cores
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        session = self._session(model, settings)
        ran = session.get_providers()[0]
        if ran != self.provider:
            raise ProviderError(
                f"{self.provider} was asked for, {ran} would run the model",
                remedy="See `torchlift doctor` for what this provider lacks here.",
            )
        return OnnxRuntimeSession(session, signature, f"{self.version()} {self.provider}", self.device)

    def _session(self, model: Path, options: ort.SessionOptions, graph: bytes | None = None) -> ort.InferenceSession:
        """A session of the file ``model``, or of ``graph`` in its place."""
        import onnxruntime as ort

        self.require()
        try:
            providers = [(self.provider, dict(self.provider_options))]
            return ort.InferenceSession(
                graph or str(model), options, providers=providers, disabled_optimizers=list(self.disabled_optimizers)
            )
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime cannot load {model.name}: {error}", remedy="Export again, or use another backend."
            ) from error


class OnnxRuntimeCpu(OnnxRuntime):
    """ONNX Runtime on the processor. It computes FP16 through FP32: that halves the file and gains no speed.

    Its SkipLayerNormalization is slower than Add and LayerNormalization: without it a BERT-base is 1.04-1.05 times as
    fast in FP32 and 1.07-1.16 times in INT8 (processor time of one thread, ONNX Runtime 1.31 on Zen 4).
    """

    name = "onnxruntime"
    recipes: ClassVar[Mapping[str, str]] = {
        "fp32": "fp32",
        "fp16": "fp16",
        "int8": "int8-u8s8",
        "int8-dynamic": "int8-dynamic",
        "int8-fp16": "int8-s8s8-fp16",
    }
    on_request = frozenset({"fp16", "int8-fp16"})
    emulates = frozenset({"fp16", "int8-fp16"})
    provider = "CPUExecutionProvider"
    disabled_optimizers = ("SkipLayerNormFusion",)
    distributions = ("onnxruntime", "onnxruntime-gpu")
    remedy = "pip install onnxruntime"


class OnnxRuntimeCuda(OnnxRuntime):
    """ONNX Runtime on an NVIDIA GPU. FP32 is FP32: TF32, ONNX Runtime's default there, is off."""

    name = "onnxruntime-cuda"
    provider = "CUDAExecutionProvider"
    provider_options: ClassVar[Mapping[str, str]] = {"use_tf32": "0"}
    device = "cuda"
    distributions = ("onnxruntime-gpu",)
    remedy = "It replaces the package onnxruntime: pip uninstall onnxruntime, then pip install onnxruntime-gpu."


class OnnxRuntimeSession(Session):
    """An ``onnxruntime.InferenceSession`` behind the contract; one thread at a time."""

    def __init__(self, session: ort.InferenceSession, signature: Signature, runtime: str, device: str = "cpu") -> None:
        super().__init__(signature, runtime)
        self._session: Any = session
        self._device = device

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        names = self.signature.output_names
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def _prepare(self, feeds: Arrays) -> Call:
        import onnxruntime as ort

        sizes = self.signature.check(feeds)
        binding = self._session.io_binding()
        values = {n: ort.OrtValue.ortvalue_from_numpy(np.asarray(a, order="C"), self._device) for n, a in feeds.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for spec in self.signature.outputs:
            shape = [sizes.get(dim) if isinstance(dim, str) else dim for dim in spec.shape]
            if None in shape:
                binding.bind_output(spec.name, self._device)
            else:
                value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(spec.dtype), self._device)
                binding.bind_ortvalue_output(spec.name, value)
        session = self._session

        def call() -> None:
            _ = values  # on the processor they are the arrays' own memory, which the binding reads
            session.run_with_iobinding(binding)

        return call

    def close(self) -> None:
        self._session = None
