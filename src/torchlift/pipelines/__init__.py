"""A bundle opened for use: images, texts and arrays in, answers out, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.pipelines.base import OpenOptions, Pipeline
from torchlift.progress import SILENT, Progress

if TYPE_CHECKING:
    from torchlift.pipelines.clip import ClipPipeline
    from torchlift.pipelines.tensors import TensorPipeline

__all__ = ["OpenOptions", "Pipeline", "of_bundle", "open_bundle"]

_PIPELINES = {"chinese-clip": "torchlift.pipelines.clip:ClipPipeline"}
_DEFAULT = "torchlift.pipelines.tensors:TensorPipeline"


def open_bundle(
    path: str | os.PathLike[str], options: OpenOptions | None = None, progress: Progress = SILENT
) -> ClipPipeline | TensorPipeline:
    """Open the bundle at ``path`` for use: a ClipPipeline for Chinese-CLIP, a TensorPipeline for any other module.

    Every file's checksum is compared first. The chosen variants serve; one that was not yet verified on this machine is
    verified now. Raises BundleError, BackendUnavailableError, VerificationError.
    """
    return of_bundle(Bundle.open(path, progress), options=options, progress=progress)


def of_bundle(
    bundle: Bundle,
    sessions: Mapping[str, Session] | None = None,
    options: OpenOptions | None = None,
    progress: Progress = SILENT,
) -> ClipPipeline | TensorPipeline:
    """The pipeline of an open bundle; ``sessions``, by component, serve instead of variants.

    A session that is given is neither verified nor closed. Raises BundleError.
    """
    module, _, name = _PIPELINES.get(bundle.manifest.family, _DEFAULT).partition(":")
    pipeline: Any = getattr(import_module(module), name)
    return pipeline(bundle, options or OpenOptions(), progress, sessions)
