"""ONNX Runtime: builds the optimised graph, opens it with one provider, and proves that this provider runs it."""

from torchlift.backends.onnxruntime.base import OnnxRuntime
from torchlift.backends.onnxruntime.cpu import OnnxRuntimeCpu
from torchlift.backends.onnxruntime.gpu import OnnxRuntimeCuda, OnnxRuntimeTensorRt
from torchlift.backends.onnxruntime.session import OnnxRuntimeSession

__all__ = ["OnnxRuntime", "OnnxRuntimeCpu", "OnnxRuntimeCuda", "OnnxRuntimeSession", "OnnxRuntimeTensorRt"]
