"""ONNX Runtime on an NVIDIA GPU: with CUDA's kernels, or with engines of TensorRT."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torchlift.backends.base import Compilation, Session, SessionOptions
from torchlift.backends.cuda import Stream, cuda_available
from torchlift.backends.onnxruntime.base import INSTALL_AGAIN, OnnxRuntime, Provider
from torchlift.backends.onnxruntime.placement import RECORDING, placements, require_placed
from torchlift.backends.onnxruntime.session import DeviceSession
from torchlift.errors import BackendError
from torchlift.forms import FP16, INT8_S8S8_FP16, SOURCE, Recipe, by_name
from torchlift.machine import Availability, gpus, installed_version
from torchlift.signature import CORNERS, Signature

_EXTRA = 'pip install "torchlift[cuda]"'
_TELLS_PLACES = "get_provider_graph_assignment_info"
"""The method of a session that says where nodes run."""

_CUDA = "CUDAExecutionProvider"


class _OnGpu(OnnxRuntime):
    """What holds for both: a GPU and its libraries must be there, sessions work on a stream of ours, and nodes that
    compute must not fall to the processor. What was found holds for that GPU and its driver alone.
    """

    for_gpus = True

    opened_at = "ORT_DISABLE_ALL"
    """What was built is optimised already, and is run as it is: so the nodes that a placement names are those of the
    file. The optimisations beyond what was built concern processors."""

    distributions = ("onnxruntime-gpu",)
    remedy = f"It replaces the package onnxruntime: {INSTALL_AGAIN}."
    behind: ClassVar[tuple[str, ...]] = ()
    """Providers that may run what the first one lacks."""

    def available(self) -> Availability:
        state = super().available()
        if not state.ok:
            return state
        return next((problem for problem in (_packages(), cuda_available(), _libraries()) if not problem.ok), state)

    def version(self) -> str:
        found = gpus()
        return f"{super().version()} on {found[0] if found else 'no NVIDIA GPU'}"

    def open(
        self, model: Path, signature: Signature, recipe: str = "fp32", options: SessionOptions | None = None
    ) -> Session:
        self.require()
        self.require_kind(model)
        options = options or SessionOptions()
        settings = self._settings(self._threads(options))
        settings.add_session_config_entry(RECORDING, "1")
        stream = Stream(options.on.device)
        try:
            providers = self.providers(signature, recipe, options)
            for _, given in providers:
                given["user_compute_stream"] = str(stream.handle)
            session = self._session(model, settings, providers)
            require_placed(placements(session), model, (self.provider, *self.behind))
            return DeviceSession(
                session, signature, f"{self.version()}, {self.provider}", stream, self._graphs(options)
            )
        except BaseException:
            stream.close()
            raise

    def _graphs(self, options: SessionOptions) -> SessionOptions:
        return options

    def _threads(self, options: SessionOptions) -> int:
        """One: the processor only finds shapes."""
        return 1


class OnnxRuntimeCuda(_OnGpu):
    """ONNX Runtime with CUDA's kernels. FP32 is FP32: TF32, ONNX Runtime's default there, is off.

    INT8 is made only when it is named: this provider has no integer kernels for most operators between QuantizeLinear
    and DequantizeLinear, and computes them in floating point, dequantising the weights at every run.
    """

    name = "onnxruntime-cuda"
    recipes: ClassVar[Mapping[str, Recipe]] = by_name(
        Recipe("fp32", "fp32", SOURCE),
        Recipe("fp16", "fp16", FP16),
        Recipe("int8", "int8", INT8_S8S8_FP16, asked_for=True),
    )
    fused_for = "gpu"
    replays = True
    provider = _CUDA

    def providers(self, signature: Signature, recipe: str, options: SessionOptions) -> list[Provider]:
        return [_cuda(options)]


class OnnxRuntimeTensorRt(_OnGpu):
    """ONNX Runtime with engines of TensorRT, and CUDA's kernels for what TensorRT's parser does not read. Written to
    the documentation of the provider, for TensorRT 10 and later; not yet run.

    It opens the component's graph, and builds the engine for the ranges of the signature's axes each time that it does,
    which takes minutes: nothing is cached, since an engine from elsewhere runs code of its maker's. TF32 is on, as
    TensorRT's default, unless the environment has NVIDIA_TF32_OVERRIDE=0: the provider has no option for it. It records
    no CUDA graphs: the provider heeds no number of theirs, and would replay one shape's for another.
    """

    name = "onnxruntime-tensorrt"
    recipes: ClassVar[Mapping[str, Recipe]] = by_name(Recipe("fp32", "fp32", SOURCE), Recipe("fp16", "fp16", FP16))
    asked_for = True
    opens_graphs = True
    provider = "TensorrtExecutionProvider"
    behind = (_CUDA,)

    def available(self) -> Availability:
        state = super().available()
        return state if not state.ok else _tensorrt() or state

    def version(self) -> str:
        return f"{super().version()}, TensorRT {installed_version('tensorrt') or 'of the system'}"

    def providers(self, signature: Signature, recipe: str, options: SessionOptions) -> list[Provider]:
        engine = {
            "device_id": str(options.on.device),
            "trt_fp16_enable": str(int(self.recipe(recipe).precision == "fp16")),
            "trt_engine_cache_enable": "0",
            **_profile(signature),
        }
        return [(self.provider, engine), _cuda(self._graphs(options))]

    def build(self, source: Path, folder: Path, signature: Signature, compilation: Compilation | None = None) -> str:
        """Raises BackendError: there is nothing to build."""
        raise BackendError(f"{self.name} opens {source.name} as it is", remedy="Open the graph itself.")

    def _graphs(self, options: SessionOptions) -> SessionOptions:
        return SessionOptions(options.on)


def _cuda(options: SessionOptions) -> Provider:
    """Kernels of convolutions are cuDNN's own choice: ONNX Runtime's default tries all at every new shape, and on an
    H200 it took slower ones for RN50.
    """
    given = {"device_id": str(options.on.device), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    return _CUDA, given | ({"enable_cuda_graph": "1"} if options.cuda_graph else {})


def _profile(signature: Signature) -> dict[str, str]:
    """The ranges of the inputs' shapes; none where they are all fixed."""
    if not signature.axes:
        return {}
    return {
        f"trt_profile_{corner}_shapes": ",".join(
            f"{spec.name}:{'x'.join(map(str, spec.shape_at(signature.sizes(corner))))}" for spec in signature.inputs
        )
        for corner in CORNERS
    }


def _packages() -> Availability:
    """Whether the packages are there that sessions on a GPU need besides, and ONNX Runtime is new enough."""
    import onnxruntime as ort

    for package in ("cuda-bindings", "nvidia-ml-py"):
        if installed_version(package) is None:
            return Availability(False, f"{package} is not installed", _EXTRA)
    if not hasattr(ort.InferenceSession, _TELLS_PLACES):
        return Availability(
            False,
            f"onnxruntime {ort.__version__} does not tell which provider runs a node",
            "pip install -U onnxruntime-gpu, to 1.24 or later.",
        )
    return Availability(True, "")


@functools.cache
def _libraries() -> Availability:
    """Whether CUDA's libraries can be loaded, which this does: without them ONNX Runtime falls back to the processor,
    and only says so in its log.
    """
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    missing = [line for line in said.getvalue().splitlines() if line.startswith("Failed to load lib")]
    if not missing:  # lines with a path are tried again by name
        return Availability(True, "")
    major = ort.cuda_version.partition(".")[0]
    return Availability(
        False,
        f"CUDA's libraries are not there: {missing[0]}",
        f'pip install "onnxruntime-gpu[cuda,cudnn]", or install CUDA {major} and cuDNN 9.',
    )


@functools.cache
def _tensorrt() -> Availability | None:
    """Why a graph of one node cannot be opened with TensorRT; None where it can."""
    import onnx
    import onnxruntime as ort

    with contextlib.suppress(ImportError):
        import tensorrt  # noqa: F401, its libraries are found once they are loaded
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) {y = Relu(x)}'
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    provider = OnnxRuntimeTensorRt.provider
    problem = ""
    try:
        session = ort.InferenceSession(graph.SerializeToString(), options, providers=[provider], enable_fallback=0)
        problem = "" if session.get_providers()[0] == provider else f"{session.get_providers()[0]} would run a model"
    except Exception as error:
        problem = " ".join(str(error).split())
    remedy = "Install the release of TensorRT that ONNX Runtime's documentation names for this onnxruntime-gpu."
    return Availability(False, f"TensorRT cannot be used: {problem}", remedy) if problem else None
