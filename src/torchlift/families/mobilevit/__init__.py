"""MobileViT: a classifier of convolutions and small transformers, from two sources of checkpoints."""

from torchlift.families.mobilevit.family import MobileViTFamily

__all__ = ["MobileViTFamily"]
