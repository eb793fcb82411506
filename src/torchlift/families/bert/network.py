"""The networks: transformers' own, which are the truth, and the same with an attention that exports well."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface

from torchlift.errors import CheckpointError
from torchlift.families.attention import STYLES, Attention, Heads
from torchlift.families.bert.heads import ENCODER, Head

MASKED = 1e4
"""What is taken from the score of a masked token. exp(-1e4) is 0, and float16 holds it."""

_OWN_ATTENTION = ("mpnet", "deberta-v2")
"""Types of model with an attention of their own, which transformers does not let others write."""

_OWN_MASK = ("deberta-v2",)
"""Types of model that do not add the mask to the scores."""


def build(config: Mapping[str, Any], head: Head) -> nn.Module:
    """Transformers' network for a config.json, on the meta device: it has shapes, but no weights.

    Raises CheckpointError where the values do not fit each other.
    """
    try:
        read = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(_plain(config))
        with torch.device("meta"):
            network: nn.Module = getattr(transformers, head.auto).from_config(
                read, dtype=torch.float32, attn_implementation="eager"
            )
    except Exception as error:  # transformers and torch raise many kinds for values that do not fit
        raise CheckpointError(f"config.json cannot be used: {error}", remedy="Download the folder again.") from error
    if head.auto == ENCODER.auto and hasattr(network, "pooler"):
        network.pooler = None  # its answer is not among the outputs
    return network


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what would have code fetched, or weights quantised."""
    return {key: value for key, value in config.items() if key not in ("auto_map", "quantization_config")}


def last_layers(network: nn.Module) -> tuple[str, ...]:
    """The names of the layers that give the scores of a classifier or of question answering, which are small."""
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    return tuple(name for name in ("qa_outputs", "classifier", "classifier.out_proj") if name in linear)


class Network(nn.Module):
    """A network of transformers, called by position: ids, mask and, where it has them, types, int64 [batch, sequence].

    The result is a tensor, or a tuple of several.
    """

    def __init__(self, network: nn.Module, outputs: int, finish: nn.Module | None = None) -> None:
        super().__init__()
        self.network, self.finish, self._outputs = network, finish, outputs

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Any:
        return self._finished(self._asked(ids, mask, types), mask)

    def _asked(self, ids: Tensor, mask: Tensor, types: Tensor | None) -> tuple[Tensor, ...]:
        config: Any = self.network.config
        given = {} if types is None else {"token_type_ids": types}
        if config.model_type not in _OWN_MASK:
            mask = ((mask.float() - 1.0) * MASKED)[:, None, None, :]  # transformers builds it by twelve operators
        found: tuple[Tensor, ...] = self.network(input_ids=ids, attention_mask=mask, return_dict=False, **given)
        return found

    def _finished(self, found: tuple[Tensor, ...], mask: Tensor) -> Any:
        if self.finish is not None:
            return self.finish(found[0], mask)
        return found[0] if self._outputs == 1 else found[: self._outputs]


class ExportedNetwork(Network):
    """Computes the same as Network, with the same parameters. Attention is written in a style that runtimes fuse."""

    def __init__(self, reference: Network, attention: Attention) -> None:
        shared = {id(tensor): tensor for tensor in (*reference.parameters(), *reference.buffers())}
        super().__init__(copy.deepcopy(reference.network, shared), reference._outputs, reference.finish)
        config: Any = self.network.config
        if config.model_type not in _OWN_ATTENTION:
            config._attn_implementation = _name(attention)


def _name(style: Attention) -> str:
    return f"torchlift-{style}"


def _attention(style: Attention) -> Any:
    """An attention as transformers calls it: query, key and value are [batch, heads, length, width]."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scaling: float, **others: Any
    ) -> tuple[Tensor, None]:
        heads = Heads(query.shape[1], query.shape[3], style, scaling)
        return heads.attend_apart(query, key, value, mask).transpose(1, 2), None

    return attend


for _style in STYLES:
    AttentionInterface.register(_name(_style), _attention(_style))
