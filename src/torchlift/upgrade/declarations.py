"""What version 1 did not declare: how inputs are prepared and answers read, as the components of version 2 say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""How version 1 normalised the pictures of every Chinese-CLIP. It did not write it down."""


def declarations(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had pre- and postprocessing in the settings, or in the code of Chinese-CLIP's pipeline."""
    settings, components = data.get("settings"), data.get("components", [])
    if not isinstance(settings, dict) or not all(isinstance(c, dict) for c in components):
        return data
    if data.get("family") == "chinese-clip":
        declared = [_of_clip(component, settings) for component in components]
        return {**data, "pipeline": "dual-encoder", "components": declared}
    inputs, answers = settings.get("inputs", {}), settings.get("outputs", {})
    kept = {name: value for name, value in settings.items() if name not in ("inputs", "outputs")}
    if components:
        first = {**components[0], "inputs": _tagged(inputs, "image"), "answers": _tagged(answers, "labels")}
        components = [first, *components[1:]]
    return {**data, "pipeline": "tensors", "settings": kept, "components": components}


def _of_clip(component: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    if component.get("name") == "image":
        side = settings.get("resolution")
        inputs = {"image": {"kind": "image", "size": [side, side], "mean": _CLIP_MEAN, "std": _CLIP_STD}}
    elif component.get("name") == "text":
        inputs = {"text": {"kind": "text", "tokenizer": "vocabulary", "length": settings.get("context_length")}}
    outputs = component.get("signature", {}).get("outputs", [])
    return {**component, "inputs": inputs, "answers": {o.get("name"): {"kind": "embedding"} for o in outputs}}


def _tagged(declared: Any, kind: str) -> Any:
    if not isinstance(declared, dict):
        return declared
    return {name: {"kind": kind, **value} if isinstance(value, dict) else value for name, value in declared.items()}
