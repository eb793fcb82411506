"""The names that timm and transformers give to Swin's weights, turned into Microsoft's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from torchlift.errors import CheckpointError, some

_BUFFERS = re.compile(r"\.(relative_position_index|relative_coords_table|attn_mask)$")
"""What the sizes tell: Microsoft's files hold it."""

_FROM_TRANSFORMERS = (
    (r"^swin(?:v2)?\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^swin(?:v2)?\.embeddings\.norm\.", "patch_embed.norm."),
    (r"^swin(?:v2)?\.encoder\.layers\.", "layers."),
    (r"^swin(?:v2)?\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.self\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.attention\.(?:self|relative_position_bias)\.(relative_position_bias_table)$", r".attn.\1"),
    (r"\.attention\.self\.logit_scale$", ".attn.logit_scale"),
    (r"\.attention\.self\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
"""transformers writes files with the names of its older releases: those of the network in memory differ. Both are read.
"""

_PARTS = {"q": "query", "k": "key", "v": "value"}
_PART = re.compile(r"^(.*\.attn)\.(query|key|value|[qkv])\.(weight|bias)$")


def without_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights alone."""
    return {name: tensor for name, tensor in state.items() if not _BUFFERS.search(name)}


def is_timm(names: Iterable[str]) -> bool:
    """Whether the names are timm's: ``head.fc``, and the merging of tokens at the start of the next stage."""
    names = set(names)
    return "head.fc.weight" in names or (
        "layers.1.downsample.reduction.weight" in names and "layers.0.downsample.reduction.weight" not in names
    )


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Timm's names as Microsoft's."""

    def renamed(name: str) -> str:
        name = name.replace("head.fc.", "head.", 1)
        if match := re.match(r"layers\.(\d{1,9})\.downsample\.", name):
            return f"layers.{int(match[1]) - 1}.downsample.{name[match.end() :]}"
        return name

    return {renamed(name): tensor for name, tensor in state.items()}


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Transformers' names as Microsoft's: query, key and value become one weight, in this order.

    A key has no bias in Swin V2; its part is 0. Raises CheckpointError where one of the three is missing.
    """
    weights: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in _FROM_TRANSFORMERS:
            new = re.sub(pattern, replacement, new)
        if match := _PART.match(new):
            part = _PARTS.get(match[2], match[2])
            parts.setdefault(f"{match[1]}.qkv.{match[3]}", {})[part] = tensor
        else:
            weights[new] = tensor
    for name, three in parts.items():
        weights[name] = _joined(name, three)
    return weights


def _joined(name: str, three: Mapping[str, Tensor]) -> Tensor:
    if {*three} == {"query", "value"} and name.endswith(".bias"):
        three = {**three, "key": torch.zeros_like(three["query"])}
    if lacking := [part for part in _PARTS.values() if part not in three]:
        kind = name.rpartition(".")[2]
        raise CheckpointError(
            f"{name.removesuffix(f'.qkv.{kind}')} lacks the {kind} of {some(lacking)}",
            remedy="Give a whole checkpoint.",
        )
    tensors = [three[part] for part in _PARTS.values()]
    if len({tuple(tensor.shape) for tensor in tensors}) > 1 or tensors[0].ndim == 0:
        raise CheckpointError(
            f"query, key and value of {name} have the shapes {[list(tensor.shape) for tensor in tensors]}",
            remedy="Give a checkpoint as it was saved.",
        )
    return torch.cat(tensors)
