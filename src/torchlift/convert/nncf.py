"""INT8 by NNCF, Intel's quantiser, where it is installed. It makes IR for OpenVINO from an FP32 ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from torchlift.errors import ConversionError, DataError
from torchlift.graph.files import load_model
from torchlift.graph.schemes import has_attention, is_stem
from torchlift.graph.units import name_nodes, require_nodes
from torchlift.progress import SILENT, Progress

if TYPE_CHECKING:
    import openvino as ov

_NO_TELEMETRY = "NNCF_CI"
"""The environment variable that keeps NNCF from sending telemetry. It must be set when NNCF is imported."""


def quantize_with_nncf(
    source: Path,
    folder: Path,
    feeds: Sequence[Mapping[str, np.ndarray]],
    *,
    keep: Collection[str] = (),
    progress: Progress = SILENT,
) -> str:
    """Quantise the ONNX file ``source`` and write IR to ``folder``; returns the file's name there.

    NNCF runs all ``feeds`` several times. A graph with attention is quantised as a transformer, so that more of it
    stays in floating point. The nodes named by ``keep``, and convolutions that read the graph's inputs, stay in
    floating point too. NNCF sends no telemetry and prints nothing.

    The caller sees to it that both are here (:meth:`torchlift.forms.Form.require`). Raises DataError without feeds,
    ConversionError for a name in ``keep`` that the graph lacks and where NNCF fails.
    """
    if not feeds:
        raise DataError("there are no calibration samples", remedy="Give `calibration=` data that the model will see.")
    graph = load_model(source)
    kept = _kept(graph, keep)
    try:
        with _quiet():
            import openvino as ov

            model = _quantized(ov.Core().read_model(source), feeds, kept, has_attention(graph), progress)
            ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    except Exception as error:
        raise ConversionError(
            f"NNCF cannot quantise {source.name}: {error}", remedy="Use int8, which torchlift writes itself."
        ) from error
    return "model.xml"


def _kept(model: ir.Model, keep: Collection[str]) -> tuple[ir.Node, ...]:
    """The nodes that stay in floating point. Raises ConversionError for a name that the graph lacks."""
    name_nodes(model)
    require_nodes(model, keep)
    return tuple(node for node in model.graph if node.name in keep or is_stem(node))


def _quantized(
    model: ov.Model,
    feeds: Sequence[Mapping[str, np.ndarray]],
    kept: Sequence[ir.Node],
    transformer: bool,
    progress: Progress,
) -> ov.Model:
    import nncf  # type: ignore[import-untyped]

    tensors = {value.name for node in kept for value in node.outputs}
    names = [op.get_friendly_name() for op in model.get_ops() if _writes(op, tensors) or _is_part(op, kept)]
    with progress.stage("calibrate with NNCF") as stage:

        def advancing(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            stage.advance()
            return dict(feed)

        quantized = nncf.quantize(
            model,
            nncf.Dataset(feeds, advancing),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            ignored_scope=nncf.IgnoredScope(names=names, validate=False) if names else None,
        )
    if quantized.has_rt_info(["nncf"]):
        quantized.set_rt_info("", ["nncf"])
    return quantized


def _is_part(op: Any, nodes: Sequence[ir.Node]) -> bool:
    """Whether OpenVINO made ``op`` from one of ``nodes``. From a Gemm, for example, it makes a product and a sum."""
    return any(op.get_friendly_name().startswith(f"{node.name}/") for node in nodes)


def _writes(op: Any, tensors: Collection[str | None]) -> bool:
    return any(not output.get_names().isdisjoint(tensors) for output in op.outputs())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Import NNCF without telemetry, and keep it silent while the block runs: no progress bars, only errors logged."""
    before = os.environ.get(_NO_TELEMETRY)
    os.environ[_NO_TELEMETRY] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import nncf  # noqa: F401

            logger = logging.getLogger("nncf")
            level = logger.level
            logger.setLevel(logging.ERROR)
            try:
                yield
            finally:
                logger.setLevel(level)
    finally:
        if before is None:
            del os.environ[_NO_TELEMETRY]
        else:
            os.environ[_NO_TELEMETRY] = before
