"""How the architectures of transformers come into the zoo: by class and configuration, with random weights."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from zoo_case import ZOO, Axis, Case, Input, i64, lively, mask, settled

VOCABULARY = 120
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
"""The settings of a small transformer, as most configurations call them."""

IDS = i64("input_ids", "batch", "sequence", below=VOCABULARY, least=4)
MASK = mask("attention_mask", "batch", "sequence")
TYPES = i64("token_type_ids", "batch", "sequence", below=2)


def architecture(
    group: str,
    name: str,
    model: str,
    inputs: tuple[Input, ...],
    settings: dict[str, Any],
    axes: tuple[Axis, ...] = (),
    gain: float = 1.0,
    **more: Any,
) -> None:
    """Add ``transformers.<model>`` with these settings of its configuration.

    A setting whose value is a tuple (class of a configuration, its settings) is a configuration itself.
    """

    def build() -> nn.Module:
        transformers = importlib.import_module("transformers")
        kind = getattr(transformers, model)
        network = lively(kind(kind.config_class(**{k: _configuration(v) for k, v in settings.items()})), gain)
        return settled(network, lambda: _run(ZOO.cases[name], network))

    ZOO.add(group, name, build, *inputs, axes=axes, **more)


def _run(case: Case, network: nn.Module) -> None:
    feeds = case.draw({axis.name: axis.max for axis in case.axes}, 1)
    args, kwargs = case.arguments(network, {k: torch.from_numpy(v) for k, v in feeds.items()})
    network(*args, **kwargs)


def _configuration(value: Any) -> Any:
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict)):
        return value
    kind = getattr(importlib.import_module("transformers"), value[0])
    return kind(**{k: _configuration(v) for k, v in value[1].items()})
