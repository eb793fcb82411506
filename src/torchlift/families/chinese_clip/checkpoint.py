"""Finding and reading Chinese-CLIP's weights, without running code that a file may hold and without a second copy.

Two formats: a ``.pt`` file of the original project, and a folder that transformers saved (on disk or on the hub).
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from torchlift.errors import CheckpointError
from torchlift.families.chinese_clip.names import Weights, original_name, to_transformers, without_unused
from torchlift.families.chinese_clip.torch_file import EXPECTED, load_torch_file, openai_clip
from torchlift.processing.clip import BICUBIC, MEAN, STD

ORIGINAL_MARKS = ("logit_scale", "text_projection", "bert.embeddings.word_embeddings.weight", "visual.conv1.weight")
FOLDER_MARKS = (
    "logit_scale",
    "text_projection.weight",
    "text_model.embeddings.word_embeddings.weight",
    "vision_model.embeddings.patch_embedding.weight",
)
"""Weights that every checkpoint of a format has: where one is missing, it is another model's."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

PREPROCESSING_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where transformers says how pictures are prepared; the second, with more in it, since release 5."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".zip")


@dataclass(frozen=True)
class Checkpoint(ABC):
    """Weights on disk. ``files`` are what they are read from, ``folder`` is where a vocabulary may lie beside them,
    ``config`` is transformers' config.json where there is one.
    """

    folder: Path
    files: tuple[Path, ...]
    config: Mapping[str, Any] | None

    @abstractmethod
    def read(self) -> Weights:
        """The weights by transformers' names, as stored, mapped into memory rather than copied where possible."""

    @abstractmethod
    def name_in_file(self, name: str) -> str:
        """What the file calls the weight that transformers calls ``name``."""


class OriginalFile(Checkpoint):
    """A file of the original project: a dict with ``state_dict``, or a bare state_dict."""

    def read(self) -> Weights:
        file = self.files[0]
        state = _without_prefix(_state_dict(file, load_torch_file(file)))
        if "token_embedding.weight" in state and not any(name.startswith("bert.") for name in state):
            raise openai_clip(file)
        _check_marks(file, state, ORIGINAL_MARKS, ("bert.", "visual."))
        try:
            return to_transformers(state)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error.message}", remedy=EXPECTED) from error

    def name_in_file(self, name: str) -> str:
        return original_name(name)


class TransformersFolder(Checkpoint):
    """A folder that transformers saved: config.json and weights, perhaps in shards."""

    def read(self) -> Weights:
        state: Weights = {}
        for file in self.files:
            state |= _load_safetensors(file) if file.suffix == ".safetensors" else _tensors(file, load_torch_file(file))
        _check_marks(self.folder, state, FOLDER_MARKS, ("text_model.", "vision_model.", "visual_projection."))
        return without_unused(state)

    def name_in_file(self, name: str) -> str:
        return name


def open_checkpoint(source: str) -> Checkpoint:
    """Find out what ``source`` is: a file, a folder, or a name on the hub, which is downloaded.

    Raises CheckpointError where there is nothing, or something else.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return OriginalFile(path.parent, (path,), None)
    if path.is_dir():
        return _open_folder(path)
    if _HUB_NAME.fullmatch(source) and not source.endswith(_FILE_SUFFIXES):
        return _open_folder(_download(source))
    raise CheckpointError(f"{source} does not exist", remedy=EXPECTED)


def check_names(checkpoint: Checkpoint, weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes of weights with those expected; raises CheckpointError that names some that differ."""
    missing = _names(checkpoint, [name for name in expected if name not in weights])
    unexpected = _names(checkpoint, [name for name in weights if name not in expected])
    wrong = [
        f"{checkpoint.name_in_file(name)} gives {list(weights[name].shape)} and must give {list(shape)}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "wrong shapes:": wrong}
    problems = [f"{what} {_some(names)}" for what, names in found.items() if names]
    if problems:
        raise CheckpointError(
            f"{checkpoint.files[-1]} does not fit Chinese-CLIP: {'; '.join(problems)}", remedy=EXPECTED
        )


def check_preprocessing(checkpoint: Checkpoint, resolution: int) -> None:
    """Refuse a transformers folder that prepares pictures otherwise than Chinese-CLIP: they are resized to
    ``resolution`` pixels square, nothing is cut off. Raises CheckpointError that names what differs.
    """
    for file in (checkpoint.folder / name for name in PREPROCESSING_FILES):
        if checkpoint.config is not None and file.is_file():
            content = _read_json(file)
            _check_pictures(file, content.get("image_processor") or content, resolution)


def _check_pictures(file: Path, stated: Mapping[str, Any], resolution: int) -> None:
    said = {name: value for name, value in stated.items() if value is not None}
    square = {"height": resolution, "width": resolution}
    expected = {
        "image_mean": [*MEAN],
        "image_std": [*STD],
        "size": resolution if isinstance(said.get("size"), int) else square,
        "resample": BICUBIC,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_center_crop": False,
    }
    if said.get("crop_size") == said.get("size") == square:
        del expected["do_center_crop"]  # a crop to the size that the picture has
    wrong = [
        f"{name} is {said[name]}, not {value}" for name, value in expected.items() if said.get(name, value) != value
    ]
    if wrong:
        raise CheckpointError(
            f"{file} prepares pictures otherwise than Chinese-CLIP: {'; '.join(wrong)}",
            remedy="Correct the file, or remove it, if the model was trained as Chinese-CLIP is.",
        )


def _state_dict(file: Path, content: Any) -> Weights:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    return _tensors(file, content)


def _tensors(file: Path, content: Any) -> Weights:
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            found += f" with {_some([str(name) for name in content]) or 'nothing in it'}"
        raise CheckpointError(f"{file} holds {found}, not a state_dict", remedy=EXPECTED)
    return {str(name): tensor for name, tensor in content.items()}


def _without_prefix(state: Weights) -> Weights:
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _check_marks(where: Path, state: Weights, marks: tuple[str, ...], prefixes: tuple[str, ...]) -> None:
    missing = [mark for mark in marks if mark not in state]
    if missing:
        other = [name for name in state if name not in marks and not name.startswith(prefixes)]
        unexpected = f"; unexpected {_some(other)}" if other else ""
        raise CheckpointError(
            f"{where} is not a Chinese-CLIP checkpoint: missing {_some(missing)}{unexpected}", remedy=EXPECTED
        )


def _names(checkpoint: Checkpoint, names: list[str]) -> list[str]:
    return list(dict.fromkeys(checkpoint.name_in_file(name) for name in names))


def _some(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _open_folder(folder: Path) -> TransformersFolder:
    file = folder / "config.json"
    if not file.is_file():
        checkpoints = sorted(p.name for p in folder.glob("*.pt"))
        hint = f"Name the file itself: {folder / checkpoints[0]}." if checkpoints else EXPECTED
        raise CheckpointError(f"{folder} has no config.json", remedy=hint)
    config = _read_json(file)
    kind = config.get("model_type")
    if kind != "chinese_clip":
        raise CheckpointError(f"{folder} holds a model of type {kind!r}, not 'chinese_clip'", remedy=EXPECTED)
    return TransformersFolder(folder, _weight_files(folder), config)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
    raise CheckpointError(f"{folder} has no weights", remedy=f"It must hold {' or '.join(WEIGHT_FILES)}.")


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = _read_json(index).get("weight_map")
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


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}", remedy="Download the folder again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is damaged: it holds no object", remedy="Download the folder again.")
    return content


def _load_safetensors(file: Path) -> Weights:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged: {error}", remedy="Download the folder again.") from error


def _download(name: str) -> Path:
    """The folder that the hub's model was downloaded to; weights as safetensors where it has them, else as bin."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{name} does not exist here, and huggingface_hub, which would download it, is not installed",
            remedy="Run: pip install huggingface_hub.",
        ) from error
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=["*.json", "vocab.txt", "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=["*.json", "vocab.txt", "*.bin"]))
    except Exception as error:  # the hub's client raises many kinds, of two HTTP libraries and of its own
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name} does not exist here and could not be fetched from the hub: {type(error).__name__}: {reason}",
            remedy="Check the name and the connection, or give a file or folder that exists.",
        ) from error
    return folder
