"""Chinese-CLIP as a family: a source becomes a model with two components, each of which is loaded when asked for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torchlift.checksums import key_of, sha256
from torchlift.declare.answers import Embedding
from torchlift.declare.inputs import ImageInput, Input, TextInput
from torchlift.errors import CheckpointError, SignatureError, SourceError
from torchlift.families.attention import style_of
from torchlift.families.base import Family, LoadOptions, Model, ModelComponent, Sampler
from torchlift.families.chinese_clip.architecture import Architecture, architecture_of
from torchlift.families.chinese_clip.checkpoint import Checkpoint, check_names, check_preprocessing, open_checkpoint
from torchlift.families.chinese_clip.exported import exported_of
from torchlift.families.chinese_clip.pixels import MEAN, STD
from torchlift.families.chinese_clip.samples import TextSampler
from torchlift.families.chinese_clip.towers import (
    POSITIONS,
    build_image,
    build_text,
    expected_shapes,
    fill,
    resize_positions,
)
from torchlift.families.chinese_clip.vocabulary import Vocabulary, find_vocabulary
from torchlift.families.fake_quant import fold_norms, modules_of
from torchlift.families.samples import PictureSampler
from torchlift.pipelines.dual_encoder import LARGEST_SCALE
from torchlift.signature import Axis, Signature, TensorSpec

CONTEXT_LENGTH = 52
"""Tokens of a text, [CLS] and [SEP] included, that the released models were trained with."""

AXES = {"image": ("batch",), "text": ("batch", "sequence")}
"""Component -> the axes that may vary."""


class ChineseClip(Family):
    """Reads clip_cn_*.pt files and their fine-tunes, transformers' chinese_clip folders, and names on the hub."""

    name: ClassVar[str] = "chinese-clip"

    def load(self, source: str, options: LoadOptions) -> Model:
        """Find the model at ``source``; weights are checked by name and shape, and not yet read.

        Raises CheckpointError (UnsafeCheckpointError for a pickle with code in it), SourceError for a resolution that
        does not fit, SignatureError for axes that do not.
        """
        checkpoint = open_checkpoint(source)
        weights = checkpoint.read()
        try:
            stored = architecture_of({name: tuple(t.shape) for name, t in weights.items()}, checkpoint.config)
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint.files[-1]}: {error.message}", remedy=error.remedy) from error
        check_names(checkpoint, weights, expected_shapes(stored))
        check_preprocessing(checkpoint, stored.resolution)
        logit_scale = float(weights["logit_scale"])
        if not abs(logit_scale) <= math.log(LARGEST_SCALE):
            raise CheckpointError(
                f"{checkpoint.files[-1]}: logit_scale is {logit_scale}, and its exponential is from "
                f"{1 / LARGEST_SCALE:g} to {LARGEST_SCALE:g}",
                remedy="Give an earlier checkpoint.",
            )
        architecture = _at_resolution(stored, options.resolution)
        vocabulary = find_vocabulary(checkpoint.folder, stored.text.vocabulary, options.vocabulary)
        signatures = _signatures(architecture, options)
        return ChineseClipModel(
            name=architecture.name,
            family=self.name,
            settings={
                "embedding": architecture.embedding,
                "resolution": architecture.resolution,
                "context_length": signatures["text"].axis("sequence").max,
                "logit_scale": logit_scale,
            },
            assets={"vocabulary": ("vocab.txt", vocabulary.content)},
            key=key_of(
                self.name,
                [sha256(file) for file in checkpoint.files],
                hashlib.sha256(vocabulary.content).hexdigest(),
                architecture,
                sorted(signatures.items()),
            ),
            component_names=tuple(AXES),
            checkpoint=checkpoint,
            architecture=architecture,
            vocabulary=vocabulary,
            signatures=signatures,
        )


@dataclass(frozen=True)
class ChineseClipModel(Model):
    """A Chinese-CLIP model on disk, with the components ``image`` and ``text``."""

    pipeline = "dual-encoder"

    name: str
    family: str
    settings: Mapping[str, Any]
    assets: Mapping[str, tuple[str, bytes]]
    key: str
    component_names: tuple[str, ...]
    checkpoint: Checkpoint
    architecture: Architecture
    vocabulary: Vocabulary
    signatures: Mapping[str, Signature]

    def declared(self, name: str) -> Signature:
        return self.signatures[name]

    def component(self, name: str, *, attention: str = "sdpa") -> ModelComponent:
        """Load one tower: ``image`` [batch, 3, R, R] float32 or ``text`` [batch, sequence] int64, to features
        [batch, embedding] float32 that are not normalised. Raises SourceError for an unknown name or attention,
        CheckpointError for weights that are not finite.
        """
        self.check_component(name)
        style = style_of(attention)
        build = {"image": build_image, "text": build_text}[name]
        tower = build(self.architecture, style)
        weights = self.checkpoint.read()
        for table in POSITIONS:
            if table in weights and len(weights[table]) != self.architecture.grid**2 + 1:
                weights[table] = resize_positions(weights[table], self.architecture.grid)
        fill(tower, weights)
        sample: Sampler = (
            PictureSampler("image", (self.architecture.resolution,) * 2, MEAN, STD)
            if name == "image"
            else TextSampler(self.vocabulary)
        )
        return ModelComponent(
            name=name,
            signature=self.signatures[name],
            reference=tower,
            exported=exported_of(tower, style, self.settings["context_length"]),
            sample=sample,
            inputs=self._inputs(name),
            answers={output: Embedding() for output in self.signatures[name].output_names},
            scales=modules_of(tower, fold_norms(tower, self.checkpoint.read_scales())),
        )

    def _inputs(self, name: str) -> dict[str, Input]:
        side = self.architecture.resolution
        if name == "image":
            return {"image": ImageInput((side, side), MEAN, STD)}
        return {"text": TextInput("vocabulary", self.signatures["text"].axis("sequence").max)}


def _at_resolution(stored: Architecture, resolution: int | None) -> Architecture:
    if resolution is None:
        return stored
    stride = stored.vision.stride
    if resolution < stride or resolution % stride:
        near = max(1, round(resolution / stride)) * stride
        raise SourceError(
            f"a resolution of {resolution} pixels does not divide into patches of {stride}",
            remedy=f"Use a multiple of {stride}, for example {near}.",
        )
    return replace(stored, resolution=resolution)


def _signatures(architecture: Architecture, options: LoadOptions) -> dict[str, Signature]:
    options.check_axes(AXES)
    positions, size = architecture.text.positions, architecture.resolution
    context = min(CONTEXT_LENGTH, positions)
    image_batch = options.axis("image", Axis("batch", 1, 8, 64))
    text_batch = options.axis("text", Axis("batch", 1, 8, 128))
    sequence = options.axis("text", Axis("sequence", min(4, context), min(16, context), context))
    if sequence.max > positions:
        raise SignatureError(
            f"axis sequence: {sequence} is longer than the {positions} positions of the checkpoint",
            remedy=f"Use a maximum of {positions} or less.",
        )
    bounds = (0, architecture.text.vocabulary)
    return {
        "image": Signature(
            (TensorSpec("image", "float32", ("batch", 3, size, size)),),
            (TensorSpec("unnorm_image_features", "float32", ("batch", architecture.embedding)),),
            (image_batch,),
        ),
        "text": Signature(
            (TensorSpec("text", "int64", ("batch", "sequence"), bounds),),
            (TensorSpec("unnorm_text_features", "float32", ("batch", architecture.embedding)),),
            (text_batch, sequence),
        ),
    }
