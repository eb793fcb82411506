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
    from torchlift.datasets import ReadOptions as ReadOptions
    from torchlift.declare import module as module
    from torchlift.errors import TorchliftError as TorchliftError
    from torchlift.evidence import Gate as Gate
    from torchlift.evidence import Tolerance as Tolerance
    from torchlift.export import ExportOptions as ExportOptions
    from torchlift.families.base import LoadOptions as LoadOptions
    from torchlift.manifest import Manifest as Manifest
    from torchlift.manifest import Variant as Variant
    from torchlift.measure.calibration import CalibrationOptions as CalibrationOptions
    from torchlift.measure.latency import LatencyOptions as LatencyOptions
    from torchlift.measure.verify import VerifyOptions as VerifyOptions
    from torchlift.pipelines import OpenOptions as OpenOptions
    from torchlift.pipelines import open_bundle as open
    from torchlift.pipelines.clip import ClipPipeline as ClipPipeline
    from torchlift.pipelines.tensors import TensorPipeline as TensorPipeline
    from torchlift.processing.image import ImageInput as ImageInput
    from torchlift.processing.labels import Labels as Labels
    from torchlift.progress import Progress as Progress
    from torchlift.ship import ShipOptions as ShipOptions
    from torchlift.ship import Source as Source
    from torchlift.ship import export as export_bundle
    from torchlift.ship import ship as ship_model
    from torchlift.signature import Axis as Axis
    from torchlift.signature import Profile as Profile
    from torchlift.signature import Signature as Signature
    from torchlift.signature import TensorSpec as TensorSpec
    from torchlift.stages import BenchOptions as BenchOptions
    from torchlift.stages import BuildOptions as BuildOptions
    from torchlift.stages import CalibrationData as CalibrationData
    from torchlift.stages import ConvertOptions as ConvertOptions
    from torchlift.stages import DataOptions as DataOptions
    from torchlift.stages import JobOptions as JobOptions
    from torchlift.stages import bench_bundle as bench_bundle
    from torchlift.stages import bisect_bundle as bisect_bundle
    from torchlift.stages import build_bundle as build_bundle
    from torchlift.stages import score_bundle as score_bundle
    from torchlift.stages import verify_bundle as verify_bundle

__version__ = "0.1.0"

_NAMES = {
    "Axis": "torchlift.signature",
    "BenchOptions": "torchlift.stages",
    "BuildOptions": "torchlift.stages",
    "Bundle": "torchlift.bundle",
    "CalibrationData": "torchlift.stages",
    "CalibrationOptions": "torchlift.measure.calibration",
    "ClipPipeline": "torchlift.pipelines.clip",
    "CompileOptions": "torchlift.backends",
    "ConvertOptions": "torchlift.stages",
    "DataOptions": "torchlift.stages",
    "ExportOptions": "torchlift.export",
    "Gate": "torchlift.evidence",
    "ImageInput": "torchlift.processing.image",
    "JobOptions": "torchlift.stages",
    "Labels": "torchlift.processing.labels",
    "LatencyOptions": "torchlift.measure.latency",
    "LoadOptions": "torchlift.families.base",
    "Manifest": "torchlift.manifest",
    "OpenOptions": "torchlift.pipelines",
    "Profile": "torchlift.signature",
    "Progress": "torchlift.progress",
    "ReadOptions": "torchlift.datasets",
    "ShipOptions": "torchlift.ship",
    "Signature": "torchlift.signature",
    "Source": "torchlift.ship",
    "TensorPipeline": "torchlift.pipelines.tensors",
    "TensorSpec": "torchlift.signature",
    "Tolerance": "torchlift.evidence",
    "TorchliftError": "torchlift.errors",
    "Variant": "torchlift.manifest",
    "VerifyOptions": "torchlift.measure.verify",
    "bench_bundle": "torchlift.stages",
    "bisect_bundle": "torchlift.stages",
    "build_bundle": "torchlift.stages",
    "export_bundle": "torchlift.ship:export",
    "module": "torchlift.declare",
    "open": "torchlift.pipelines:open_bundle",
    "pack": "torchlift.archive",
    "score_bundle": "torchlift.stages",
    "ship_model": "torchlift.ship:ship",
    "unpack": "torchlift.archive",
    "verify_bundle": "torchlift.stages",
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
