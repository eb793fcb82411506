"""The family Swin: Swin Transformer and Swin V2, classifiers with attention within shifted windows."""

from torchlift.families.swin.family import SwinFamily

__all__ = ["SwinFamily"]
