"""Networks that answer for every pixel, or with boxes: segmentation, depth, detection."""

from __future__ import annotations

from functools import partial
from typing import Any

from zoo_architectures import VOCABULARY, architecture
from zoo_case import Axis, f32, i64, mask

dense = partial(architecture, "segmentation and depth")
detector = partial(architecture, "detection")
PIXELS = (f32("pixel_values", "batch", 3, "height", "width"),)
FIXED = (f32("pixel_values", "batch", 3, 64, 64),)


def _by(step: int, least: int = 2) -> tuple[Axis, Axis]:
    return (
        Axis("height", least * step, (least + 1) * step, (least + 4) * step, step),
        Axis("width", least * step, (least + 2) * step, (least + 3) * step, step),
    )


RESNET = (
    "ResNetConfig",
    {
        "embedding_size": 16,
        "hidden_sizes": [16, 24, 32, 32],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage2", "stage3", "stage4"],
    },
)
LAST = (RESNET[0], {**RESNET[1], "out_features": ["stage4"]})
DINO = (
    "Dinov2Config",
    {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "mlp_ratio": 2,
        "image_size": 56,
        "patch_size": 14,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
        "apply_layernorm": True,
    },
)
SEGFORMER: dict[str, Any] = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 4],
    "decoder_hidden_size": 32,
}
dense("segformer", "SegformerForSemanticSegmentation", PIXELS, SEGFORMER, axes=_by(32))
dense("segformer-classifier", "SegformerForImageClassification", PIXELS, SEGFORMER, axes=_by(32))
dense("glpn", "GLPNForDepthEstimation", PIXELS, SEGFORMER, axes=_by(32))
dense(
    "depth-anything",
    "DepthAnythingForDepthEstimation",
    PIXELS,
    {
        "backbone_config": DINO,
        "reassemble_hidden_size": 32,
        "patch_size": 14,
        "reassemble_factors": [4, 2, 1, 0.5],
        "neck_hidden_sizes": [8, 16, 24, 32],
        "fusion_hidden_size": 16,
        "head_hidden_size": 8,
    },
    axes=_by(14),
)
dense(
    "dpt",
    "DPTForDepthEstimation",
    (f32("pixel_values", "batch", 3, 32, 32),),
    {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 16, 24, 32],
        "fusion_hidden_size": 16,
    },
)
dense(
    "upernet",
    "UperNetForSemanticSegmentation",
    PIXELS,
    {
        "backbone_config": (
            "ConvNextConfig",
            {
                "hidden_sizes": [8, 16, 24, 32],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
        ),
        "hidden_size": 16,
        "auxiliary_channels": 8,
        "auxiliary_in_channels": 24,
        "num_labels": 6,
    },
    axes=_by(32),
)
dense(
    "mobilevit-deeplab",
    "MobileViTForSemanticSegmentation",
    PIXELS,
    {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32],
        "num_attention_heads": 2,
        "aspp_out_channels": 16,
        "num_labels": 5,
    },
    axes=_by(32),
)
dense(
    "maskformer-swin",
    "MaskFormerForInstanceSegmentation",
    FIXED,
    {
        "backbone_config": (
            "SwinConfig",
            {
                "image_size": 64,
                "patch_size": 4,
                "embed_dim": 16,
                "depths": [1, 1, 1, 1],
                "num_heads": [2, 2, 4, 4],
                "window_size": 2,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
        ),
        "decoder_config": (
            "DetrConfig",
            {
                "d_model": 32,
                "encoder_layers": 1,
                "decoder_layers": 2,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "decoder_ffn_dim": 64,
                "encoder_ffn_dim": 64,
                "num_queries": 6,
                "backbone_config": LAST,
                "use_timm_backbone": False,
            },
        ),
        "fpn_feature_size": 32,
        "mask_feature_size": 32,
    },
)
DETR: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 6,
    "num_labels": 5,
    "use_timm_backbone": False,
    "backbone": None,
    "use_pretrained_backbone": False,
}
detector("detr", "DetrForObjectDetection", PIXELS, {**DETR, "backbone_config": LAST}, axes=_by(32))
detector(
    "conditional-detr", "ConditionalDetrForObjectDetection", PIXELS, {**DETR, "backbone_config": LAST}, axes=_by(32)
)
detector(
    "deformable-detr",
    "DeformableDetrForObjectDetection",
    PIXELS,
    {**DETR, "backbone_config": RESNET, "num_feature_levels": 3, "disable_custom_kernels": True},
    axes=_by(32),
)
detector("table-transformer", "TableTransformerForObjectDetection", FIXED, {**DETR, "backbone_config": LAST})
detector(
    "rt-detr",
    "RTDetrForObjectDetection",
    PIXELS,
    {
        "backbone_config": (
            "RTDetrResNetConfig",
            {
                "embedding_size": 16,
                "hidden_sizes": [16, 24, 32, 32],
                "depths": [1, 1, 1, 1],
                "layer_type": "basic",
                "out_features": ["stage2", "stage3", "stage4"],
            },
        ),
        "encoder_hidden_dim": 32,
        "encoder_in_channels": [24, 32, 32],
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "d_model": 32,
        "decoder_in_channels": [32, 32, 32],
        "decoder_ffn_dim": 64,
        "decoder_attention_heads": 4,
        "decoder_layers": 2,
        "decoder_n_points": 2,
        "num_queries": 10,
        "num_denoising": 0,
        "num_labels": 5,
        "anchor_image_size": None,
        "freeze_backbone_batch_norms": False,
    },
    axes=_by(32),
)
detector(
    "yolos",
    "YolosForObjectDetection",
    (f32("pixel_values", "batch", 3, 32, 48),),
    {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": [32, 48],
        "patch_size": 8,
        "num_detection_tokens": 5,
        "num_labels": 4,
    },
)
TEXT = (
    "OwlViTTextConfig",
    {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
    },
)
VISION = (
    "OwlViTVisionConfig",
    {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    },
)
detector(
    "owl-vit",
    "OwlViTForObjectDetection",
    (
        i64("input_ids", 3, 16, below=VOCABULARY),
        f32("pixel_values", 1, 3, 32, 32),
        mask("attention_mask", 3, 16),
    ),
    {"text_config": TEXT, "vision_config": VISION, "projection_dim": 32},
)
