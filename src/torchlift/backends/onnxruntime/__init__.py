"""The backends of ONNX Runtime. Each builds an optimised graph, and makes sure that its own provider runs it."""

from torchlift.backends.onnxruntime.base import OnnxRuntime
from torchlift.backends.onnxruntime.cpu import OnnxRuntimeCpu
from torchlift.backends.onnxruntime.gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRt
from torchlift.backends.onnxruntime.session import OnnxRuntimeSession

__all__ = ["OnnxRuntime", "OnnxRuntimeCpu", "OnnxRuntimeCuda", "OnnxRuntimeSession", "OnnxRuntimeTensorRt"]
