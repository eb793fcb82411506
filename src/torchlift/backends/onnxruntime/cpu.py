"""ONNX Runtime on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torchlift.backends.onnxruntime.base import WEIGHTS_FOLDER, OnnxRuntime
from torchlift.forms import FP16, INT8_DYNAMIC, INT8_S8S8_FP16, INT8_U8S8, SOURCE, Recipe, by_name
from torchlift.machine import HERE, RunOn


class OnnxRuntimeCpu(OnnxRuntime):
    """ONNX Runtime on the processor.

    It computes FP16 in FP32 and casts in between. So FP16 halves the file, and is no faster.

    SkipLayerNormFusion is switched off. The operator that it makes is slower here than Add and LayerNormalization:
    without it a BERT-base is 1.04 to 1.05 times as fast in FP32, and 1.07 to 1.16 times in INT8 (processor time of one
    thread, ONNX Runtime 1.31 on Zen 4).
    """

    name = "onnxruntime"
    recipes: ClassVar[Mapping[str, Recipe]] = by_name(
        Recipe("fp32", "fp32", SOURCE),
        Recipe("fp16", "fp16", FP16, emulated=True, asked_for=True),
        Recipe("int8", "int8", INT8_U8S8),
        Recipe("int8-dynamic", "int8", INT8_DYNAMIC),
        Recipe("int8-fp16", "int8", INT8_S8S8_FP16, emulated=True, asked_for=True),
    )
    fused_for = "processor"
    provider = "CPUExecutionProvider"
    disabled_optimizers = ("SkipLayerNormFusion",)
    distributions = ("onnxruntime", "onnxruntime-gpu")
    remedy = "pip install onnxruntime"

    def open_graph(self, graph: bytes, on: RunOn = HERE, *, weights: Path | None = None, optimised: bool = True) -> Any:
        """An ``onnxruntime.InferenceSession`` of a graph that was changed in memory, for example one with more outputs.

        Its nodes run in the order in which they are listed. Weights that lie in files are read in the folder
        ``weights``. A graph that is not ``optimised`` is computed node by node as it is written, and no thread waits
        busily for work: many such sessions may be open. Raises what ONNX Runtime raises.
        """
        import onnxruntime as ort

        settings = self._settings(on.cores)
        settings.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        if weights is not None:
            settings.add_session_config_entry(WEIGHTS_FOLDER, str(weights.resolve()))
        if not optimised:
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return ort.InferenceSession(graph, settings, providers=[self.provider])
