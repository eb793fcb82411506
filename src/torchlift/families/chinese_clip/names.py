"""Names of weights: those of Chinese-CLIP's own checkpoints (original), and those of transformers.

In this package weights have the names of transformers. transformers has no RN50, so its image tower keeps the original
names, ``visual.*``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from torchlift.errors import CheckpointError
from torchlift.graph.scales import Scales

Weights = dict[str, Tensor]

_SAME_TENSOR = {
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
}
_TRANSPOSED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
_PREFIXES = {
    "bert.": "text_model.",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
}
_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")

_ORIGINAL_LAYER = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.(.+)\.(weight|bias)")
_ORIGINAL_QKV = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.attn\.(?:in_proj_|Wqkv\.)(weight|bias)")
_LAYER = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_UNUSED = re.compile(r"(?:bert|text_model)\.pooler\..*|.*\.position_ids")


def is_resnet(names: Iterable[str]) -> bool:
    """Whether these original names are of a model whose image tower is a ResNet."""
    return any(name.startswith("visual.layer1.") for name in names)


def without_unused(state: Mapping[str, Tensor]) -> Weights:
    """The weights without those that no feature depends on: the pooler and stored position ids."""
    return {name: tensor for name, tensor in state.items() if not _UNUSED.fullmatch(name)}


def to_transformers(state: Mapping[str, Tensor]) -> Weights:
    """Rename the weights of an original checkpoint (without ``module.``) to those of transformers' ChineseCLIPModel.

    The new tensors are views of the old ones. Unknown names stay. Raises CheckpointError for a tensor that cannot be
    split or transposed.
    """
    resnet = is_resnet(state)
    renamed: Weights = {}
    for name, tensor in without_unused(state).items():
        if resnet and name.startswith("visual."):
            renamed[name] = tensor
        elif name in _TRANSPOSED:
            renamed[_TRANSPOSED[name]] = _transposed(name, tensor)
        elif match := _ORIGINAL_QKV.fullmatch(name):
            for projection, part in zip(_PROJECTIONS, _thirds(name, tensor), strict=True):
                renamed[f"vision_model.encoder.layers.{match[1]}.self_attn.{projection}.{match[2]}"] = part
        else:
            renamed[_new_name(name)] = tensor
    return renamed


def to_original(state: Mapping[str, Tensor]) -> Weights:
    """Rename the weights of transformers' ChineseCLIPModel to those of Chinese-CLIP's own checkpoints.

    ``torch.save({"epoch": 0, "step": 0, "name": "...", "state_dict": to_original(model.state_dict())}, file)`` writes a
    file that the reference implementation reads. Raises CheckpointError where a query, key or value projection is
    missing.
    """
    transposed = {new: old for old, new in _TRANSPOSED.items()}
    renamed: Weights = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, tensor in without_unused(state).items():
        old = original_name(name)
        if name in transposed:
            renamed[old] = _transposed(name, tensor).contiguous()
        elif ".self_attn." in name and old.rpartition(".")[2].startswith("in_proj_"):
            joined.setdefault(old, {})[name.split(".")[-2]] = tensor
        else:
            renamed[old] = tensor
    for old, parts in joined.items():
        missing = [p for p in _PROJECTIONS if p not in parts]
        if missing:
            raise CheckpointError(
                f"{old} cannot be made: {', '.join(missing)} is missing", remedy="Give the whole state_dict."
            )
        renamed[old] = torch.cat([parts[p] for p in _PROJECTIONS])
    return renamed


def original_name(name: str) -> str:
    """The original name of the tensor with the weight that transformers calls ``name``."""
    for old, new in (*_SAME_TENSOR.items(), *_TRANSPOSED.items()):
        if name == new:
            return old
    for old, new in _PREFIXES.items():
        if name.startswith(new):
            return old + name[len(new) :]
    if match := _LAYER.fullmatch(name):
        layer, part, kind = match.groups()
        if part.startswith("self_attn.") and part.removeprefix("self_attn.") in _PROJECTIONS:
            return f"visual.transformer.resblocks.{layer}.attn.in_proj_{kind}"
        for old, new in _IN_LAYER.items():
            if part == new:
                return f"visual.transformer.resblocks.{layer}.{old}.{kind}"
    return name


def scales_to_transformers(scales: Mapping[str, Scales]) -> dict[str, Scales]:
    """Rename the modules of an original checkpoint's scales as ``to_transformers`` renames their weights.

    The original has one projection for query, key and value. Its scales become those of three projections, and each
    gets a third of the weight's scales.
    """
    resnet = any(path.startswith("visual.layer1.") for path in scales)
    renamed: dict[str, Scales] = {}
    for path, known in scales.items():
        if resnet and path.startswith("visual."):
            renamed[path] = known
        elif match := _ORIGINAL_QKV.fullmatch(f"{path}.weight") or _ORIGINAL_QKV.fullmatch(f"{path}_weight"):
            weight = known.weight
            thirds = [weight] * 3 if weight is None or weight.ndim == 0 else np.split(weight, 3)
            for projection, part in zip(_PROJECTIONS, thirds, strict=True):
                new = f"vision_model.encoder.layers.{match[1]}.self_attn.{projection}"
                renamed[new] = replace(known, weight=part)
        else:
            renamed[_new_name(f"{path}.weight").removesuffix(".weight")] = known
    return renamed


def _new_name(name: str) -> str:
    if name in _SAME_TENSOR:
        return _SAME_TENSOR[name]
    for old, new in _PREFIXES.items():
        if name.startswith(old):
            return new + name[len(old) :]
    match = _ORIGINAL_LAYER.fullmatch(name)
    if match and match[2] in _IN_LAYER:
        return f"vision_model.encoder.layers.{match[1]}.{_IN_LAYER[match[2]]}.{match[3]}"
    return name


def _transposed(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim != 2:
        raise CheckpointError(
            f"{name} has shape {list(tensor.shape)}; it must have two dimensions",
            remedy="Give a Chinese-CLIP checkpoint as it was saved.",
        )
    return tensor.t()


def _thirds(name: str, tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.ndim == 0 or tensor.shape[0] % 3:
        raise CheckpointError(
            f"{name} has shape {list(tensor.shape)}; its rows must be those of query, key and value, in equal parts",
            remedy="Give a Chinese-CLIP checkpoint as it was saved.",
        )
    return tensor.chunk(3)
