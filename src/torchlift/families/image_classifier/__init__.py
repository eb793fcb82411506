"""The family of classifiers that transformers opens: ViT, DeiT, BEiT, ConvNeXt, ResNet, EfficientNet, DINOv2, ..."""

from torchlift.families.image_classifier.family import ImageClassifierFamily

__all__ = ["ImageClassifierFamily"]
