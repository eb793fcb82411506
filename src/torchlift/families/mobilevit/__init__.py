"""The family MobileViT: a classifier of convolutions and small transformers, with two formats of checkpoints."""

from torchlift.families.mobilevit.family import MobileViTFamily

__all__ = ["MobileViTFamily"]
