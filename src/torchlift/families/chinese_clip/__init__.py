"""The family Chinese-CLIP: an image tower and a text tower whose features lie in one space."""

from torchlift.families.chinese_clip.family import ChineseClip
from torchlift.families.chinese_clip.names import to_original, to_transformers

__all__ = ["ChineseClip", "to_original", "to_transformers"]
