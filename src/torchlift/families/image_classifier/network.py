"""Any image classifier of transformers, built from a config.json and given weights that were read as data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchlift.errors import CheckpointError, some
from torchlift.families.attention import Attention
from torchlift.families.quiet import libraries_quiet
from torchlift.families.transformers_folder import as_float32

_EAGER_ONLY = ("swin",)
"""Kinds of models whose attention by torch's scaled_dot_product_attention cannot be traced with a varying batch."""


class ClassifierNetwork(nn.Module):
    """Images float32 [batch, 3, height, width] -> logits float32 [batch, classes], by a model of transformers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=image).logits
        return logits


def build(
    folder: Path, file: Path, tensors: Mapping[str, Tensor], style: Attention, expected: str
) -> ClassifierNetwork:
    """The network of a folder with its weights, in eval mode. ``file`` is what errors call the weights.

    No code of the folder runs: a model that brings its own is refused. Raises CheckpointError for a config.json that
    transformers cannot use or that is no image classifier, and for weights that do not fit it.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    try:
        with libraries_quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise CheckpointError(f"{folder / 'config.json'} cannot be used: {_first(error)}", remedy=expected) from error
    if type(config) not in AutoModelForImageClassification._model_mapping:
        raise CheckpointError(
            f"{folder} holds a model of type {config.model_type!r}, which transformers has no image classifier for",
            remedy=expected,
        )
    if getattr(config, "quantization_config", None) is not None:
        raise CheckpointError(
            f"{folder} holds quantised weights", remedy="Give the checkpoint before it was quantised."
        )
    try:
        with libraries_quiet():
            network, told = _loaded(AutoModelForImageClassification, config, dict(tensors), style)
    except Exception as error:  # transformers and torch raise many kinds for numbers that do not fit
        raise CheckpointError(f"{file} cannot be loaded: {_first(error)}", remedy=expected) from error
    _check(file, told, expected)
    for name, tensor in network.state_dict().items():
        as_float32(name, tensor, tensor)
    return ClassifierNetwork(network).eval().requires_grad_(False)


def classes_of(network: ClassifierNetwork, file: Path, size: tuple[int, int], remedy: str) -> int:
    """The number of classes, from one run on a black picture of ``size``. Raises CheckpointError where it fails."""
    try:
        with torch.no_grad():
            logits = network(torch.zeros(1, 3, *size))
    except Exception as error:  # a network raises what its layers raise
        raise CheckpointError(
            f"the network of {file} does not take pictures of {size[0]} x {size[1]} pixels: {_first(error)}",
            remedy=remedy,
        ) from error
    if logits.ndim != 2:
        raise CheckpointError(
            f"the network of {file} answers {list(logits.shape)}, not [batch, classes]",
            remedy="Give an image classifier.",
        )
    return int(logits.shape[1])


def _loaded(auto: Any, config: Any, tensors: dict[str, Tensor], style: Attention) -> tuple[nn.Module, Any]:
    """The network and what transformers tells of loading it, which :func:`_check` reads instead of a user."""
    from transformers.utils import logging

    kind = _class(auto, config)
    node = style == "node" and kind._supports_sdpa and config.model_type not in _EAGER_ONLY
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        network, told = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            attn_implementation="sdpa" if node else "eager",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(verbosity)
    return network, told


def _class(auto: Any, config: Any) -> Any:
    """The class of the model: where transformers has several for a configuration, the one that it names."""
    found = auto._model_mapping[type(config)]
    classes = found if isinstance(found, (list, tuple)) else [found]
    return next((c for c in classes if c.__name__ in (config.architectures or ())), classes[0])


def _check(file: Path, told: Mapping[str, Any], expected: str) -> None:
    """Raise CheckpointError for weights that are missing, that the network has no place for, or of other shapes."""
    problems = {
        "missing": [str(name) for name in told["missing_keys"]],
        "unexpected": [str(name) for name in told["unexpected_keys"]],
        "wrong shapes:": [_mismatch(entry) for entry in told["mismatched_keys"]],
    }
    text = "; ".join(f"{problem} {some(sorted(names))}" for problem, names in problems.items() if names)
    if text:
        raise CheckpointError(f"{file} does not fit its config.json: {text}", remedy=expected)


def _mismatch(entry: Any) -> str:
    name, stored, needed = entry
    return f"{name} is {list(stored)}, not {list(needed)}"


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
