"""Graphs as files: an ONNX file, and beside it one file with all weights."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from torchlift.errors import ConversionError

WEIGHTS_SUFFIX = ".data"


def load_model(file: Path) -> ir.Model:
    """Read an ONNX file. Its weights are read later, when they are needed.

    Raises ConversionError for a file that cannot be read, and where a file of weights has several hard links: onnx-ir
    reads none from such.
    """
    try:
        model = ir.load(file)
    except Exception as error:  # onnx-ir raises almost anything for a damaged graph
        raise ConversionError(
            f"{file.name} cannot be read: {type(error).__name__}: {error}", remedy="Export the model again."
        ) from error
    tensors = (value.const_value for value in model.graph.initializers.values())
    for path in {Path(t.path) for t in tensors if isinstance(t, ir.ExternalTensor)}:
        if path.is_file() and (links := path.stat().st_nlink) > 1:
            raise ConversionError(
                f"{path.name} has {links} hard links, and weights are not read from such a file",
                remedy="Copy the bundle with its contents, as cp -r does, not by links.",
            )
    return model


def save_model(model: ir.Model, file: Path) -> None:
    """Write ``file``, and beside it all weights in one file, which the graph names relatively. Any size is allowed."""
    ir.save(model, file, external_data=file.name + WEIGHTS_SUFFIX)
