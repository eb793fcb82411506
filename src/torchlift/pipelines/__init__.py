"""A bundle opened for use: pictures, texts and arrays in, answers out, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.errors import BundleError
from torchlift.pipelines.base import OpenOptions, Pipeline
from torchlift.progress import SILENT, Progress

__all__ = ["PIPELINES", "OpenOptions", "Pipeline", "of_bundle", "open_bundle"]

PIPELINES = {
    "dual-encoder": "torchlift.pipelines.dual_encoder:DualEncoder",
    "detection": "torchlift.pipelines.detection:DetectionPipeline",
    "question-answering": "torchlift.pipelines.question_answering:QuestionAnswering",
    "text-encoder": "torchlift.pipelines.text_encoder:TextEncoder",
    "super-resolution": "torchlift.pipelines.super_resolution:SuperResolution",
    "tensors": "torchlift.pipelines.tensors:TensorPipeline",
}
"""What a manifest calls a pipeline -> ``module:class``."""


def open_bundle(path: str | os.PathLike[str], options: OpenOptions | None = None, progress: Progress = SILENT) -> Any:
    """Open the bundle at ``path`` for use, by the pipeline that its manifest names: a
    :class:`~torchlift.pipelines.dual_encoder.DualEncoder` for pictures and texts in one space, a
    :class:`~torchlift.pipelines.question_answering.QuestionAnswering` for questions about a text, a
    :class:`~torchlift.pipelines.text_encoder.TextEncoder` for embeddings of texts, a
    :class:`~torchlift.pipelines.super_resolution.SuperResolution` for one that enlarges pictures, a
    :class:`~torchlift.pipelines.tensors.TensorPipeline` for a component that is called like a function.

    A file is compared with its checksum when it is first used. The chosen variants serve; one that was not yet verified
    on this machine is verified now. Raises BundleError, BackendUnavailableError, VerificationError.
    """
    return of_bundle(Bundle.open_to_use(path, progress), options=options, progress=progress)


def of_bundle(
    bundle: Bundle,
    sessions: Mapping[str, Session] | None = None,
    options: OpenOptions | None = None,
    progress: Progress = SILENT,
) -> Any:
    """The pipeline of an open bundle; ``sessions``, by component, serve instead of variants.

    A session that is given is neither verified nor closed. Raises BundleError, also for a pipeline that this torchlift
    does not know.
    """
    name = bundle.manifest.pipeline
    if name not in PIPELINES:
        raise BundleError(
            f"{bundle.path} has the pipeline {name!r}, which this torchlift does not know",
            remedy=f"Upgrade it: pip install -U torchlift. It knows {', '.join(PIPELINES)}.",
        )
    module, _, attribute = PIPELINES[name].partition(":")
    pipeline: Pipeline = getattr(import_module(module), attribute)(bundle, options or OpenOptions(), progress, sessions)
    return pipeline
