"""Tiny random classifiers of transformers, one of each kind, in folders."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as t

from torchlift.families.base import LoadOptions
from torchlift.families.image_classifier import ImageClassifierFamily

SIZE = 32
CLASSES = 5

PLAIN = {
    "image_size": SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 8,
}
CONVOLUTIONS = {"hidden_sizes": [8, 16], "depths": [1, 1]}

KINDS = {
    "vit": (t.ViTForImageClassification, t.ViTConfig, PLAIN),
    "deit": (t.DeiTForImageClassification, t.DeiTConfig, PLAIN),
    "deit-teacher": (t.DeiTForImageClassificationWithTeacher, t.DeiTConfig, PLAIN),
    "beit": (t.BeitForImageClassification, t.BeitConfig, PLAIN | {"use_relative_position_bias": True}),
    "beit-shared": (t.BeitForImageClassification, t.BeitConfig, PLAIN | {"use_shared_relative_position_bias": True}),
    "convnext": (t.ConvNextForImageClassification, t.ConvNextConfig, CONVOLUTIONS | {"num_stages": 2}),
    "convnextv2": (t.ConvNextV2ForImageClassification, t.ConvNextV2Config, CONVOLUTIONS | {"num_stages": 2}),
    "resnet": (t.ResNetForImageClassification, t.ResNetConfig, CONVOLUTIONS | {"embedding_size": 8}),
    "efficientnet": (
        t.EfficientNetForImageClassification,
        t.EfficientNetConfig,
        {"width_coefficient": 0.25, "depth_coefficient": 0.1, "image_size": SIZE, "hidden_dim": 320},
    ),
    "dinov2": (t.Dinov2ForImageClassification, t.Dinov2Config, PLAIN),
    "swin": (
        t.SwinForImageClassification,
        t.SwinConfig,
        {"image_size": SIZE, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4},
    ),
    "mobilevit": (
        t.MobileViTForImageClassification,
        t.MobileViTConfig,
        {
            "hidden_sizes": [16, 20, 24],
            "neck_hidden_sizes": [4, 4, 8, 8, 12, 16, 24],
            "num_attention_heads": 4,
            "expand_ratio": 2.0,
            "image_size": 64,
        },
    ),
}


def awake(network):
    """Give every weight a random value, and batch normalisation the statistics of random pictures."""
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, 0, (2 / weight[0].numel()) ** 0.5)
        elif weight.numel() > 1 and weight.unique().numel() == 1 and not name.endswith("bias"):
            torch.nn.init.normal_(weight, 0.7, 0.2)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.normal_(module.weight, 0.7, 0.2)
    size = getattr(network.config, "image_size", SIZE)
    with torch.no_grad():
        for module in network.modules():
            module.train(isinstance(module, torch.nn.BatchNorm2d))
        network(pixel_values=torch.randn(16, 3, size, size))
    return network.eval()


def said(size=SIZE, **more):
    """What a preprocessor_config.json states."""
    return {"image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}, "resample": 3, **more}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Saves a kind of classifier once; returns its folder, which is not to be changed, and the model."""
    made = {}

    def save(kind):
        if kind not in made:
            cls, config, sizes = KINDS[kind]
            model = awake(cls(config(**sizes, num_labels=CLASSES)))
            folder = tmp_path_factory.mktemp(kind)
            model.save_pretrained(folder)
            size = 64 if kind == "mobilevit" else SIZE
            (folder / "preprocessor_config.json").write_text(json.dumps(said(size)))
            made[kind] = folder, model
        return made[kind]

    return save


@pytest.fixture
def folder(folders, tmp_path):
    """A ViT in a folder that a test may change."""
    import shutil

    return shutil.copytree(folders("vit")[0], tmp_path / "vit")


@pytest.fixture
def open_model():
    def load(source, **options):
        return ImageClassifierFamily().load(str(source), LoadOptions(**options))

    return load


@pytest.fixture
def state():
    """Changes the JSON of a file in a folder: what is None is taken out."""

    def change(folder, name, **changed):
        content = json.loads((folder / name).read_text()) | changed
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change
