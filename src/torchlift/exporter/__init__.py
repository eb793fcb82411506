"""Takes a component from PyTorch to ONNX: a search over ways to export, which ends in a proof."""

from __future__ import annotations

from torchlift.exporter.options import DEFAULT_OPSET, Exporter, ExportOptions
from torchlift.exporter.program import EXPORTERS, PROGRAM, export_program, write_proven_program
from torchlift.exporter.search import export_component, export_key

__all__ = [
    "DEFAULT_OPSET",
    "EXPORTERS",
    "PROGRAM",
    "ExportOptions",
    "Exporter",
    "export_component",
    "export_key",
    "export_program",
    "write_proven_program",
]
