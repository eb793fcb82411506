"""A bundle opened for use: images, texts and arrays in, answers out, without torch."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from torchlift.bundle import Bundle
from torchlift.pipelines.base import OpenOptions, Pipeline
from torchlift.progress import SILENT, Progress

__all__ = ["OpenOptions", "Pipeline", "open_bundle"]

_PIPELINES = {"chinese-clip": "torchlift.pipelines.clip:ClipPipeline"}
_DEFAULT = "torchlift.pipelines.tensors:TensorPipeline"


def open_bundle(path: str | os.PathLike[str], options: OpenOptions | None = None, progress: Progress = SILENT) -> Any:
    """Open the bundle at ``path`` for use: a ClipPipeline for Chinese-CLIP, a TensorPipeline for any other module.

    Every file's checksum is compared first. The chosen variants serve; one that was not yet verified on this machine is
    verified now. Raises BundleError, BackendUnavailableError, VerificationError.
    """
    bundle = Bundle.open(path)
    module, _, name = _PIPELINES.get(bundle.manifest.family, _DEFAULT).partition(":")
    return getattr(import_module(module), name)(bundle, options or OpenOptions(), progress)
