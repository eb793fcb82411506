"""torchlift: from a trained PyTorch model to a verified, measured bundle that runs without PyTorch.

The public names live here; each is imported when first used, so that ``import torchlift`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchlift.archive import pack as pack
    from torchlift.archive import unpack as unpack
    from torchlift.backends import CompileOptions as CompileOptions
    from torchlift.bundle import Bundle as Bundle
    from torchlift.convert.calibration import CalibrationOptions as CalibrationOptions
    from torchlift.datasets import ReadOptions as ReadOptions
    from torchlift.declare.answers import Embedding as Embedding
    from torchlift.declare.answers import Labels as Labels
    from torchlift.declare.inputs import ImageInput as ImageInput
    from torchlift.declare.inputs import TextInput as TextInput
    from torchlift.declare.inputs import TextPart as TextPart
    from torchlift.declare.module import module as module
    from torchlift.errors import TorchliftError as TorchliftError
    from torchlift.evidence import Gate as Gate
    from torchlift.evidence import Tolerance as Tolerance
    from torchlift.export import ExportOptions as ExportOptions
    from torchlift.families.base import LoadOptions as LoadOptions
    from torchlift.jobs import DataOptions as DataOptions
    from torchlift.jobs import JobOptions as JobOptions
    from torchlift.jobs import bench_bundle as bench_bundle
    from torchlift.jobs import bisect_bundle as bisect_bundle
    from torchlift.jobs import build_bundle as build_bundle
    from torchlift.jobs import score_bundle as score_bundle
    from torchlift.jobs import verify_bundle as verify_bundle
    from torchlift.jobs.ship import ShipOptions as ShipOptions
    from torchlift.jobs.ship import Source as Source
    from torchlift.jobs.ship import export as export_bundle
    from torchlift.jobs.ship import ship as ship_model
    from torchlift.machine import RunOn as RunOn
    from torchlift.manifest import Manifest as Manifest
    from torchlift.manifest import Variant as Variant
    from torchlift.pipelines import OpenOptions as OpenOptions
    from torchlift.pipelines import open_bundle as open
    from torchlift.pipelines.dual_encoder import DualEncoder as DualEncoder
    from torchlift.pipelines.tensors import TensorPipeline as TensorPipeline
    from torchlift.progress import Progress as Progress
    from torchlift.prove.verify import VerifyOptions as VerifyOptions
    from torchlift.signature import Axis as Axis
    from torchlift.signature import Profile as Profile
    from torchlift.signature import Signature as Signature
    from torchlift.signature import TensorSpec as TensorSpec
    from torchlift.stages import BenchOptions as BenchOptions
    from torchlift.stages import BuildOptions as BuildOptions
    from torchlift.stages import ConvertOptions as ConvertOptions
    from torchlift.timing.latency import LatencyOptions as LatencyOptions

__version__ = "0.1.0"

_NAMES = {
    "Axis": "torchlift.signature",
    "BenchOptions": "torchlift.stages",
    "BuildOptions": "torchlift.stages",
    "Bundle": "torchlift.bundle",
    "CalibrationOptions": "torchlift.convert.calibration",
    "CompileOptions": "torchlift.backends",
    "ConvertOptions": "torchlift.stages",
    "DataOptions": "torchlift.jobs",
    "DualEncoder": "torchlift.pipelines.dual_encoder",
    "Embedding": "torchlift.declare.answers",
    "ExportOptions": "torchlift.export",
    "Gate": "torchlift.evidence",
    "ImageInput": "torchlift.declare.inputs",
    "JobOptions": "torchlift.jobs",
    "Labels": "torchlift.declare.answers",
    "LatencyOptions": "torchlift.timing.latency",
    "LoadOptions": "torchlift.families.base",
    "Manifest": "torchlift.manifest",
    "OpenOptions": "torchlift.pipelines",
    "Profile": "torchlift.signature",
    "Progress": "torchlift.progress",
    "ReadOptions": "torchlift.datasets",
    "RunOn": "torchlift.machine",
    "ShipOptions": "torchlift.jobs.ship",
    "Signature": "torchlift.signature",
    "Source": "torchlift.jobs.ship",
    "TensorPipeline": "torchlift.pipelines.tensors",
    "TensorSpec": "torchlift.signature",
    "Tolerance": "torchlift.evidence",
    "TextInput": "torchlift.declare.inputs",
    "TextPart": "torchlift.declare.inputs",
    "TorchliftError": "torchlift.errors",
    "Variant": "torchlift.manifest",
    "VerifyOptions": "torchlift.prove.verify",
    "bench_bundle": "torchlift.jobs",
    "bisect_bundle": "torchlift.jobs",
    "build_bundle": "torchlift.jobs",
    "export_bundle": "torchlift.jobs.ship:export",
    "module": "torchlift.declare.module",
    "open": "torchlift.pipelines:open_bundle",
    "pack": "torchlift.archive",
    "score_bundle": "torchlift.jobs",
    "ship_model": "torchlift.jobs.ship:ship",
    "unpack": "torchlift.archive",
    "verify_bundle": "torchlift.jobs",
}
"""Public name -> the module that has it, with the name there where it is another."""

__all__ = ["__version__", *(name for name in _NAMES if name != "open")]
"""Without ``open``, which ``import *`` would put in the place of Python's own."""


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'torchlift' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return ["__version__", *_NAMES]
