"""Reads folders that transformers saved, on disk or on the hub, and the tensors in their files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchlift.errors import CheckpointError, some
from torchlift.families.torch_file import load_torch_file
from torchlift.storage import open_regular

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

PREPROCESSING_FILES = ("preprocessor_config.json", "processor_config.json")
"""Files in which transformers states how pictures are prepared. Release 5 and later write the second, with more in it.
"""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

_MOST_LABELS = 10**6
"""transformers makes a name for each label that a configuration counts."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILE_SUFFIXES = (".pt", ".pth", ".tar", ".bin", ".ckpt", ".safetensors", ".zip")


def is_hub_name(source: str) -> bool:
    """Whether ``source`` could name a model on the hub, such as apple/mobilevit-small."""
    return _HUB_NAME.fullmatch(source) is not None and not source.endswith(_FILE_SUFFIXES)


def read_folder(
    folder: Path, model_types: str | Sequence[str], expected: str, pattern: str = ""
) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Read the config.json of a folder, and find the files of its weights.

    ``model_types`` is the kind of model that is expected, or several. Raises CheckpointError for a folder of another
    kind, with the remedy ``expected``. If the folder has files that match ``pattern``, the remedy names one of these
    instead.
    """
    file = folder / "config.json"
    if not file.is_file():
        checkpoints = sorted(p.name for p in folder.glob(pattern)) if pattern else []
        hint = f"Name the file itself: {folder / checkpoints[0]}." if checkpoints else expected
        raise CheckpointError(f"{folder} has no config.json", remedy=hint)
    config = read_json(file)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if isinstance(count := part.get("num_labels"), int) and count > _MOST_LABELS:
            raise CheckpointError(
                f"{file} states {str(count)[:20]} labels: at most {_MOST_LABELS:,} are possible", remedy=expected
            )
    known = (model_types,) if isinstance(model_types, str) else model_types
    kind = config.get("model_type")
    if kind not in known:
        raise CheckpointError(
            f"{folder} holds a model of type {kind!r}, not {' or '.join(map(repr, known))}", remedy=expected
        )
    return config, _weight_files(folder)


def read_weights(files: Sequence[Path], expected: str) -> dict[str, Tensor]:
    """Read the tensors of all files, by name.

    Raises CheckpointError for a file that is damaged or is something else.
    """
    state: dict[str, Tensor] = {}
    for file in files:
        content = _load_safetensors(file) if file.suffix == ".safetensors" else load_torch_file(file, expected)
        state |= as_tensors(file, content, expected)
    return state


def as_tensors(file: Path, content: Any, expected: str) -> dict[str, Tensor]:
    """Check that ``content`` is a state_dict, and return it. Raises CheckpointError, which says what it is instead."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            found += f" with {some([str(name) for name in content]) or 'nothing in it'}"
        raise CheckpointError(f"{file} holds {found}, not a state_dict", remedy=expected)
    return {str(name): _plain(file, str(name), tensor, expected) for name, tensor in content.items()}


def _plain(file: Path, name: str, tensor: Tensor, expected: str) -> Tensor:
    """The tensor, which must have its values in memory, one after the other. Raises CheckpointError for one that is
    sparse, quantised or nested, or that has no values.
    """
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        kind = "no values" if tensor.is_meta else f"the layout {tensor.layout}, dtype {tensor.dtype}"
        raise CheckpointError(f"{file}: {name} has {kind}; it must be a plain tensor", remedy=expected)
    return tensor.detach()


def as_float32(name: str, tensor: Tensor, needed: Tensor) -> Tensor:
    """The weight for the place of ``needed``, as float32, without a copy where it is; a count stays an integer.

    Raises CheckpointError where it is not finite, or of a dtype that the network does not compute in: integers and FP8
    stand for other numbers, by scales that are not read.
    """
    if not needed.is_floating_point():
        if tensor.dtype not in _INTEGERS:
            raise _wrong_dtype(name, tensor, _INTEGERS)
        return tensor.to(needed.dtype)
    if tensor.dtype not in _FLOATS:
        raise _wrong_dtype(name, tensor, _FLOATS)
    if not torch.isfinite(tensor).all():
        count = int((~torch.isfinite(tensor)).sum())
        raise CheckpointError(
            f"{name} holds {count:,} values that are NaN or infinite",
            remedy="The training diverged or the file is damaged: give an earlier checkpoint.",
        )
    return tensor.float().contiguous()


def _wrong_dtype(name: str, tensor: Tensor, known: Sequence[torch.dtype]) -> CheckpointError:
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in known)
    return CheckpointError(
        f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, and must hold one of {names}",
        remedy="Give the checkpoint before it was quantised, with its weights in floating point.",
    )


def read_json(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file. Raises CheckpointError where the file has none."""
    try:
        with open_regular(file) as stream:
            content = json.loads(stream.read().decode("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{file} is damaged: {error}", remedy="Download the folder again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is damaged: it holds no object", remedy="Download the folder again.")
    return content


def download(name: str, *extra: str) -> Path:
    """Download a model from the hub; returns its folder.

    Weights are fetched as safetensors if the model has them, else as bin. ``extra`` are names of more files to fetch.
    Raises CheckpointError where there is no such model or no connection.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{name} does not exist here, and huggingface_hub, which would download it, is not installed",
            remedy="Run: pip install huggingface_hub.",
        ) from error
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=["*.json", *extra, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=["*.json", *extra, "*.bin"]))
    except Exception as error:  # the hub's client raises many kinds, of two HTTP libraries and of its own
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name} does not exist here and could not be fetched from the hub: {type(error).__name__}: {reason}",
            remedy="Check the name and the connection, or give a file or folder that exists.",
        ) from error
    return folder


def _weight_files(folder: Path) -> tuple[Path, ...]:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise CheckpointError(f"{folder} has no weights", remedy=f"It must hold {' or '.join(WEIGHT_FILES)}.")


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} is damaged: it has no weight_map", remedy="Download the folder again.")
    shards = []
    for name in sorted({str(value) for value in weight_map.values()}):
        if name in ("..", "") or "/" in name or "\\" in name:
            raise CheckpointError(f"{index} points outside the folder: {name!r}", remedy="Do not use this folder.")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index.parent / name} is missing", remedy="Download the folder again.")
        shards.append(index.parent / name)
    return tuple(shards)


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}", remedy="Download the folder again.") from error
