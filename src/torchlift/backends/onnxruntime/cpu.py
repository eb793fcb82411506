"""ONNX Runtime on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torchlift.backends.onnxruntime.base import OnnxRuntime


class OnnxRuntimeCpu(OnnxRuntime):
    """ONNX Runtime on the processor.

    It computes FP16 in FP32 and casts in between. So FP16 halves the file, and is no faster.

    SkipLayerNormFusion is switched off. The operator that it makes is slower here than Add and LayerNormalization:
    without it a BERT-base is 1.04 to 1.05 times as fast in FP32, and 1.07 to 1.16 times in INT8 (processor time of one
    thread, ONNX Runtime 1.31 on Zen 4).
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
