"""Tiny random Swins whose answers carry a signal: transformers' networks, and files with each author's names."""

from __future__ import annotations

import json
import re

import pytest
import torch

from torchlift.families.base import LoadOptions
from torchlift.families.swin import SwinFamily
from torchlift.families.swin.architecture import Architecture
from torchlift.families.swin.geometry import apart, pair_index
from torchlift.families.swin.network import Swin

SIZE = 64
TINY = Architecture(SIZE, 4, 16, (2, 3), (2, 4), (4, 4), classes=7)
CONFIG = {
    "image_size": SIZE,
    "embed_dim": 16,
    "depths": [2, 3, 1],
    "num_heads": [2, 4, 8],
    "window_size": 4,
    "num_labels": 5,
}
PREPROCESSING = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": SIZE, "width": SIZE},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def awake(network):
    """Give every weight of a network a random value, also those that begin as 0 or 1."""
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(weight, float(name.endswith("weight")), 0.3)
        elif "logit_scale" in name:
            torch.nn.init.normal_(weight, 3, 2)
        else:
            torch.nn.init.normal_(weight, 0, 0.15)
    return network.eval()


def with_buffers(state, shape):
    """The weights and the buffers that Microsoft's files hold."""
    state = dict(state)
    for stage in shape.stages:
        for block in range(shape.depths[stage]):
            window, name = shape.windows[stage], f"layers.{stage}.blocks.{block}"
            state[f"{name}.attn.relative_position_index"] = torch.from_numpy(pair_index(window))
            if shift := shape.shift(stage, block):
                state[f"{name}.attn_mask"] = -100.0 * torch.from_numpy(apart(shape.side(stage), window, shift))
    return state


def timm_names(state):
    """The names of timm's files: no buffers, merging at the start of the next stage, ``head.fc``."""

    def renamed(name):
        name = re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
        return re.sub(r"^head\.", "head.fc.", name)

    return {renamed(name): tensor for name, tensor in state.items()}


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def network():
    return awake(Swin(TINY))


@pytest.fixture
def write(tmp_path, network):
    """Write a checkpoint as Microsoft does; ``change`` edits the state_dict, ``whole`` makes the content of it."""

    def save(name="swin.pth", *, shape=None, change=None, buffers=True, whole=None):
        used = awake(Swin(shape)) if shape else network
        state = with_buffers(used.state_dict(), used.shape) if buffers else dict(used.state_dict())
        if change is not None:
            state = change(state) or state
        torch.save({"model": state} if whole is None else whole(state), tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def open_model():
    def load(source, **options):
        return SwinFamily().load(str(source), LoadOptions(**options))

    return load


@pytest.fixture
def transformers_folder(tmp_path):
    """Save a tiny Swin or Swin V2 of transformers; returns its folder and the model."""
    from transformers import SwinConfig, SwinForImageClassification, Swinv2Config, Swinv2ForImageClassification

    def save(version=1, name="saved", said=PREPROCESSING, original=True, **config):
        made, kind = (
            (SwinConfig, SwinForImageClassification) if version == 1 else (Swinv2Config, Swinv2ForImageClassification)
        )
        model = awake(kind(made(**{**CONFIG, **config})))
        folder = tmp_path / name
        model.save_pretrained(folder, save_original_format=original)
        if said is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(said))
        return folder, model

    return save


@pytest.fixture
def images():
    """Makes float32 [rows, 3, 64, 64]."""

    def draw(rows, size=SIZE):
        return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(2))

    return draw


@pytest.fixture
def as_timm():
    """Renames a state_dict of Microsoft's names to timm's."""
    return timm_names
