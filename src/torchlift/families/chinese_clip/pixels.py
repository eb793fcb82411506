"""The pixels that CLIP was trained on, and Chinese-CLIP with it (https://github.com/openai/CLIP, clip/clip.py)."""

from __future__ import annotations

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""R, G, B in 0..1: what preprocessing takes away and divides by."""

BICUBIC = 3
"""How pictures are resized, by Pillow's number."""
