"""Encoders of pictures: transformers at a fixed size or at multiples of their patch, and convolutional networks."""

from __future__ import annotations

from functools import partial
from typing import Any

from zoo_architectures import architecture
from zoo_case import Axis, f32

encoder = partial(architecture, "vision")
FIXED = (f32("pixel_values", "batch", 3, 32, 32),)
FREE = (f32("pixel_values", "batch", 3, "height", "width"),)
VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def _by(step: int, least: int = 2) -> tuple[Axis, Axis]:
    """Heights and widths in multiples of a step."""
    return (
        Axis("height", least * step, (least + 1) * step, (least + 5) * step, step),
        Axis("width", least * step, (least + 2) * step, (least + 4) * step, step),
    )


encoder("vit", "ViTModel", FIXED, VIT)
encoder("vit-for-classification", "ViTForImageClassification", FIXED, {**VIT, "num_labels": 7})
encoder("deit", "DeiTModel", FIXED, VIT)
encoder("beit", "BeitModel", FIXED, {**VIT, "use_relative_position_bias": True})
encoder("data2vec-vision", "Data2VecVisionModel", FIXED, {**VIT, "use_shared_relative_position_bias": True})
SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
encoder("swin", "SwinModel", FREE, SWIN, axes=_by(16))
encoder("swinv2", "Swinv2Model", FIXED, SWIN)
encoder(
    "swin2sr",
    "Swin2SRForImageSuperResolution",
    FREE,
    {
        "image_size": 32,
        "patch_size": 1,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "window_size": 4,
        "upscale": 2,
    },
    axes=_by(4),
)
CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
encoder("convnext", "ConvNextModel", FREE, CONVNEXT, axes=_by(32, 1))
encoder("convnextv2", "ConvNextV2ForImageClassification", FREE, CONVNEXT, axes=_by(32, 1))
RESNET: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 24, 32], "depths": [1, 2, 1]}
PICTURES = (Axis("height", 32, 48, 71), Axis("width", 32, 56, 65))
encoder("resnet", "ResNetForImageClassification", FREE, {**RESNET, "layer_type": "bottleneck"}, axes=PICTURES)
encoder("regnet", "RegNetModel", FREE, {**RESNET, "groups_width": 8}, axes=PICTURES)
encoder(
    "efficientnet",
    "EfficientNetModel",
    FREE,
    {
        "image_size": 64,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.3,
        "hidden_dim": 320,
        "depthwise_padding": [],
    },
    axes=PICTURES,
    gain=8.0,
)
encoder("mobilenet-v1", "MobileNetV1Model", FREE, {"depth_multiplier": 0.25, "image_size": 64}, axes=PICTURES)
encoder("mobilenet-v2", "MobileNetV2Model", FREE, {"depth_multiplier": 0.35, "image_size": 64}, axes=PICTURES)
encoder(
    "mobilevit",
    "MobileViTModel",
    FREE,
    {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
        "num_attention_heads": 2,
    },
    axes=_by(32),
)
encoder("mobilevitv2", "MobileViTV2Model", FREE, {"image_size": 64, "width_multiplier": 0.25}, axes=_by(32))
encoder(
    "poolformer",
    "PoolFormerForImageClassification",
    FREE,
    {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_scale_init_value": 0.5},
    axes=_by(32, 1),
)
PYRAMID: dict[str, Any] = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "image_size": 64,
}
encoder("pvt", "PvtModel", (f32("pixel_values", "batch", 3, 64, 64),), PYRAMID)
encoder("pvt-v2", "PvtV2Model", FREE, PYRAMID, axes=_by(32))
encoder(
    "levit",
    "LevitModel",
    (f32("pixel_values", "batch", 3, 64, 64),),
    {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [2, 2, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
)
encoder(
    "cvt",
    "CvtModel",
    FREE,
    {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    axes=_by(16),
)
encoder("dinov2", "Dinov2Model", FREE, {**VIT, "patch_size": 8, "mlp_ratio": 2}, axes=_by(8))
encoder("dinov2-with-registers", "Dinov2WithRegistersModel", FIXED, {**VIT, "mlp_ratio": 2})
encoder("ijepa", "IJepaModel", FIXED, VIT)
encoder(
    "hiera",
    "HieraModel",
    FIXED,
    {
        "image_size": [32, 32],
        "patch_size": [7, 7],
        "patch_stride": [4, 4],
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "masked_unit_size": [4, 4],
        "num_query_pool": 1,
    },
)
encoder(
    "vit-mae",
    "ViTMAEModel",
    FIXED,
    {**VIT, "mask_ratio": 0.5},
    refused="which patches are masked is drawn at each call",
)
encoder(
    "vit-hybrid-bit",
    "BitModel",
    FREE,
    {
        "embedding_size": 16,
        "hidden_sizes": [16, 24, 32],
        "depths": [1, 1, 1],
        "num_groups": 4,
        "layer_type": "preactivation",
    },
    axes=PICTURES,
)
encoder(
    "focalnet",
    "FocalNetModel",
    FREE,
    {
        "image_size": 32,
        "embed_dim": 16,
        "depths": [1, 1],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
    },
    axes=_by(16),
)
encoder(
    "swiftformer",
    "SwiftFormerModel",
    FREE,
    {
        "image_size": 64,
        "depths": [1, 1, 1, 1],
        "embed_dims": [16, 16, 24, 32],
    },
    axes=_by(32),
)
encoder("timesformer", "TimesformerModel", (f32("pixel_values", "batch", 4, 3, 32, 32),), {**VIT, "num_frames": 4})
encoder("videomae", "VideoMAEModel", (f32("pixel_values", "batch", 4, 3, 32, 32),), {**VIT, "num_frames": 4})
