"""Tiny random MobileViTs, as files in either format, whose answers carry a signal."""

import json

import pytest
import torch
from torch import nn

from torchlift.families.base import LoadOptions
from torchlift.families.mobilevit import MobileViTFamily
from torchlift.families.mobilevit.architecture import Architecture
from torchlift.families.mobilevit.network import MobileViT

TINY = Architecture((4, 4, 8, 8, 8, 8, 12, 12, 16, 16, 24), (16, 20, 24), (32, 48, 64), 2, (1, 2, 1), 32, classes=7)
SIZE = 64


def awake(network):
    """Give a network random weights and the statistics of random pictures; without, it answers 0 to everything."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(16, 3, SIZE, SIZE))
    return network.eval()


def preprocessing(size=SIZE, **said):
    return {"size": {"height": size, "width": size}, "do_center_crop": False, "do_flip_channel_order": False, **said}


def load(source, **options):
    return MobileViTFamily().load(str(source), LoadOptions(**options))


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def network():
    """A tiny network of the reference's kind."""
    return awake(MobileViT(TINY))


@pytest.fixture
def write(tmp_path, network):
    """Write a checkpoint as the reference's training does; ``change`` edits the state_dict."""

    def save(*, name="model_best.pth.tar", prefix="module.", change=None, wrap=True, shape=None, size=SIZE):
        state = dict((awake(MobileViT(shape)) if shape else network).state_dict())
        if change is not None:
            state = change(state) or state
        state = {prefix + key: value for key, value in state.items()}
        whole = {"epoch": 9, "state_dict": state, "best_acc1": torch.tensor(61.9), "optimizer": {"state": {}}}
        torch.save(whole if wrap else state, tmp_path / name)
        if size:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessing(size)))
        return tmp_path / name

    return save


@pytest.fixture
def open_model():
    return load


@pytest.fixture
def transformers_folder(tmp_path):
    """Save a tiny MobileViTForImageClassification; returns its folder and the model."""
    from transformers import MobileViTConfig, MobileViTForImageClassification

    def save(name="saved", said=None, **config):
        sizes = {
            "hidden_sizes": [16, 20, 24],
            "neck_hidden_sizes": [4, 4, 8, 8, 12, 16, 24],
            "num_attention_heads": 4,
            "expand_ratio": 2.0,
            "image_size": SIZE,
            "num_labels": 5,
        }
        model = awake(MobileViTForImageClassification(MobileViTConfig(**{**sizes, **config})))
        folder = tmp_path / name
        model.save_pretrained(folder)
        apple = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "resample": 2}
        (folder / "preprocessor_config.json").write_text(json.dumps(apple if said is None else said))
        return folder, model

    return save


@pytest.fixture
def images():
    """float32 [3, 3, 64, 64]."""
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
