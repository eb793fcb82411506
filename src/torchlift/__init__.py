"""torchlift: from a trained PyTorch model to a verified, measured bundle that runs without PyTorch.

The public names live here; each is imported when first used, so that ``import torchlift`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchlift.api import as_module as as_module
    from torchlift.api import bench as bench
    from torchlift.api import bisect as bisect
    from torchlift.api import build as build
    from torchlift.api import export as export
    from torchlift.api import open as open
    from torchlift.api import score as score
    from torchlift.api import ship as ship
    from torchlift.api import verify as verify
    from torchlift.archive import pack as pack
    from torchlift.archive import unpack as unpack
    from torchlift.bundle import Bundle as Bundle
    from torchlift.declare.answers import Boxes as Boxes
    from torchlift.declare.answers import Embedding as Embedding
    from torchlift.declare.answers import Labels as Labels
    from torchlift.declare.answers import Picture as Picture
    from torchlift.declare.answers import Raw as Raw
    from torchlift.declare.answers import Span as Span
    from torchlift.declare.answers import TokenLabels as TokenLabels
    from torchlift.declare.inputs import ImageInput as ImageInput
    from torchlift.declare.inputs import QuestionInput as QuestionInput
    from torchlift.declare.inputs import TextInput as TextInput
    from torchlift.declare.inputs import TextPart as TextPart
    from torchlift.declare.module import module as module
    from torchlift.errors import TorchliftError as TorchliftError
    from torchlift.evidence import Gate as Gate
    from torchlift.evidence import Tolerance as Tolerance
    from torchlift.manifest import Manifest as Manifest
    from torchlift.manifest import Variant as Variant
    from torchlift.pipelines.dual_encoder import DualEncoder as DualEncoder
    from torchlift.pipelines.question_answering import QuestionAnswering as QuestionAnswering
    from torchlift.pipelines.question_answering import SpanAnswer as SpanAnswer
    from torchlift.pipelines.super_resolution import SuperResolution as SuperResolution
    from torchlift.pipelines.tensors import TensorPipeline as TensorPipeline
    from torchlift.pipelines.text_encoder import TextEncoder as TextEncoder
    from torchlift.progress import Progress as Progress
    from torchlift.signature import Axis as Axis
    from torchlift.signature import Profile as Profile
    from torchlift.signature import Signature as Signature
    from torchlift.signature import TensorSpec as TensorSpec
    from torchlift.tasks.base import Metric as Metric
    from torchlift.tasks.metrics import wer as wer

__version__ = "0.1.0"

_NAMES = {
    "Axis": "torchlift.signature",
    "Bundle": "torchlift.bundle",
    "DualEncoder": "torchlift.pipelines.dual_encoder",
    "Embedding": "torchlift.declare.answers",
    "Gate": "torchlift.evidence",
    "ImageInput": "torchlift.declare.inputs",
    "Boxes": "torchlift.declare.answers",
    "Labels": "torchlift.declare.answers",
    "Manifest": "torchlift.manifest",
    "Metric": "torchlift.tasks.base",
    "Picture": "torchlift.declare.answers",
    "Profile": "torchlift.signature",
    "Progress": "torchlift.progress",
    "QuestionAnswering": "torchlift.pipelines.question_answering",
    "QuestionInput": "torchlift.declare.inputs",
    "Raw": "torchlift.declare.answers",
    "Signature": "torchlift.signature",
    "Span": "torchlift.declare.answers",
    "SpanAnswer": "torchlift.pipelines.question_answering",
    "SuperResolution": "torchlift.pipelines.super_resolution",
    "TensorPipeline": "torchlift.pipelines.tensors",
    "TensorSpec": "torchlift.signature",
    "TextEncoder": "torchlift.pipelines.text_encoder",
    "TextInput": "torchlift.declare.inputs",
    "TextPart": "torchlift.declare.inputs",
    "TokenLabels": "torchlift.declare.answers",
    "Tolerance": "torchlift.evidence",
    "TorchliftError": "torchlift.errors",
    "Variant": "torchlift.manifest",
    "as_module": "torchlift.api",
    "bench": "torchlift.api",
    "bisect": "torchlift.api",
    "build": "torchlift.api",
    "export": "torchlift.api",
    "module": "torchlift.declare.module",
    "open": "torchlift.api",
    "pack": "torchlift.archive",
    "score": "torchlift.api",
    "ship": "torchlift.api",
    "unpack": "torchlift.archive",
    "verify": "torchlift.api",
    "wer": "torchlift.tasks.metrics",
}
"""Public name -> the module that has it."""

__all__ = ["__version__", *(name for name in _NAMES if name != "open")]
"""Without ``open``, which ``import *`` would put in the place of Python's own."""


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'torchlift' has no attribute {name!r}")
    found = getattr(import_module(_NAMES[name]), name)
    globals()[name] = found  # importing torchlift.exporter, a module, would otherwise put that in the function's place
    return found


def __dir__() -> list[str]:
    return ["__version__", *_NAMES]
