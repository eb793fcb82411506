"""The family SRCNN: super-resolution by three convolutions on an enlarged picture, at a factor given at run time."""

from torchlift.families.srcnn.family import SrcnnFamily

__all__ = ["SrcnnFamily"]
