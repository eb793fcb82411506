"""Networks of pictures with texts: their towers, and both at once."""

from __future__ import annotations

from functools import partial
from typing import Any

from zoo_architectures import IDS, MASK, SMALL, TYPES, architecture
from zoo_case import Axis, f32

multimodal = partial(architecture, "multimodal")
VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
CLIP_TEXT = {**SMALL, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "projection_dim": 16}
PICTURES = (f32("pixel_values", "batch", 3, 32, 32),)
FIRST = f32("pixel_values", "pictures", 3, 32, 32)

multimodal("clip-vision", "CLIPVisionModelWithProjection", PICTURES, {**VIT, "projection_dim": 16})
multimodal("clip-text", "CLIPTextModelWithProjection", (IDS, MASK), CLIP_TEXT)
multimodal("siglip-vision", "SiglipVisionModel", PICTURES, VIT)
multimodal("siglip-text", "SiglipTextModel", (IDS,), {**SMALL, "projection_size": 32})
multimodal("chinese-clip-vision", "ChineseCLIPVisionModel", PICTURES, {**VIT, "projection_dim": 16})
multimodal("blip-vision", "BlipVisionModel", PICTURES, VIT)
multimodal("flava-image", "FlavaImageModel", PICTURES, VIT)
multimodal("git-vision", "GitVisionModel", PICTURES, VIT)
multimodal(
    "vilt",
    "ViltModel",
    (IDS, MASK, TYPES, *PICTURES),
    {**SMALL, **VIT, "max_image_length": -1, "modality_type_vocab_size": 2},
    refused="patches are drawn at each call",
)
multimodal(
    "clip",
    "CLIPModel",
    (IDS, FIRST, MASK),
    {
        "text_config": ("CLIPTextConfig", CLIP_TEXT),
        "vision_config": ("CLIPVisionConfig", VIT),
        "projection_dim": 16,
    },
    axes=(Axis("pictures", 1, 3, 6),),
)
multimodal(
    "trocr-decoder",
    "TrOCRForCausalLM",
    (IDS, MASK, f32("encoder_hidden_states", "batch", 17, 32)),
    {
        "vocab_size": 120,
        "d_model": 32,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 64,
        "use_cache": False,
        "cross_attention_hidden_size": 32,
    },
)
