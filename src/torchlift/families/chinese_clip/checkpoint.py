"""Finds and reads Chinese-CLIP's weights, without running code in a file, and without a second copy in memory.

There are two formats: a ``.pt`` file of the original project, and a folder that transformers saved (on disk or on the
hub).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from torchlift.errors import CheckpointError, some
from torchlift.families.chinese_clip.names import (
    Weights,
    original_name,
    scales_to_transformers,
    to_transformers,
    without_unused,
)
from torchlift.families.chinese_clip.pixels import BICUBIC, MEAN, STD
from torchlift.families.fake_quant import split_scales
from torchlift.families.torch_file import is_torchscript
from torchlift.families.transformers_folder import (
    PREPROCESSING_FILES,
    download,
    is_hub_name,
    read_folder,
    read_json,
    read_weights,
)
from torchlift.families.weights import read_state, require_fit
from torchlift.graph.scales import Scales

EXPECTED = (
    "A Chinese-CLIP source is a clip_cn_*.pt file, a folder saved by transformers, or a hub name such as "
    "OFA-Sys/chinese-clip-vit-base-patch16."
)

ORIGINAL_MARKS = ("logit_scale", "text_projection", "bert.embeddings.word_embeddings.weight", "visual.conv1.weight")
FOLDER_MARKS = (
    "logit_scale",
    "text_projection.weight",
    "text_model.embeddings.word_embeddings.weight",
    "vision_model.embeddings.patch_embedding.weight",
)
"""Weights that every checkpoint of a format has. A file without one of them is another model's."""


@dataclass(frozen=True)
class Checkpoint(ABC):
    """Weights on disk.

    They are read from ``files``. A vocabulary may lie in ``folder``. ``config`` is the content of transformers'
    config.json; None for an original file.
    """

    folder: Path
    files: tuple[Path, ...]
    config: Mapping[str, Any] | None

    @abstractmethod
    def read(self) -> Weights:
        """Read the weights as stored, by transformers' names. They are mapped into memory where possible."""

    @abstractmethod
    def read_scales(self) -> dict[str, Scales]:
        """Read the scales of fake quantisation, by transformers' names of modules. Most checkpoints have none."""

    @abstractmethod
    def name_in_file(self, name: str) -> str:
        """The name in the file of the weight that transformers calls ``name``."""


class OriginalFile(Checkpoint):
    """A file of the original project: a dict that has ``state_dict``, or a bare state_dict."""

    def read(self) -> Weights:
        file = self.files[0]
        state, _ = self._split()
        if "token_embedding.weight" in state and not any(name.startswith("bert.") for name in state):
            raise _openai_clip(file)
        _check_marks(file, state, ORIGINAL_MARKS, ("bert.", "visual."))
        try:
            return to_transformers(state)
        except CheckpointError as error:
            raise CheckpointError(f"{file}: {error.message}", remedy=EXPECTED) from error

    def read_scales(self) -> dict[str, Scales]:
        return scales_to_transformers(self._split()[1])

    def _split(self) -> tuple[Weights, dict[str, Scales]]:
        file = self.files[0]
        if is_torchscript(file):
            raise _openai_clip(file, " (a TorchScript archive)")
        return split_scales(_without_prefix(read_state(file, EXPECTED)))

    def name_in_file(self, name: str) -> str:
        return original_name(name)


class TransformersFolder(Checkpoint):
    """A folder that transformers saved: config.json and weights, which may be split into shards."""

    def read(self) -> Weights:
        state, _ = split_scales(read_weights(self.files, EXPECTED))
        _check_marks(self.folder, state, FOLDER_MARKS, ("text_model.", "vision_model.", "visual_projection."))
        return without_unused(state)

    def read_scales(self) -> dict[str, Scales]:
        return split_scales(read_weights(self.files, EXPECTED))[1]

    def name_in_file(self, name: str) -> str:
        return name


def open_checkpoint(source: str) -> Checkpoint:
    """Find out what ``source`` is: a file, a folder, or a name on the hub, which is downloaded.

    Raises CheckpointError where there is no such model.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return OriginalFile(path.parent, (path,), None)
    if path.is_dir():
        return _open_folder(path)
    if is_hub_name(source):
        return _open_folder(download(source, "vocab.txt"))
    raise CheckpointError(f"{source} does not exist", remedy=EXPECTED)


def check_names(checkpoint: Checkpoint, weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compare names and shapes of weights with ``expected``. Raises CheckpointError with some that differ."""
    missing = _names(checkpoint, [name for name in expected if name not in weights])
    unexpected = _names(checkpoint, [name for name in weights if name not in expected])
    wrong = [
        f"{checkpoint.name_in_file(name)} gives {list(weights[name].shape)} and must give {list(shape)}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    require_fit("Chinese-CLIP", checkpoint.files[-1], missing, unexpected, wrong, EXPECTED)


def check_preprocessing(checkpoint: Checkpoint, resolution: int) -> None:
    """Raise CheckpointError for a transformers folder that prepares pictures in another way than Chinese-CLIP.

    Chinese-CLIP resizes them to a square of ``resolution`` pixels and crops nothing. The error names what differs.
    """
    for file in (checkpoint.folder / name for name in PREPROCESSING_FILES):
        if checkpoint.config is not None and file.is_file():
            content = read_json(file)
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
        del expected["do_center_crop"]  # a crop to the size that the picture already has
    wrong = [
        f"{name} is {said[name]}, not {value}" for name, value in expected.items() if said.get(name, value) != value
    ]
    if wrong:
        raise CheckpointError(
            f"{file} prepares pictures otherwise than Chinese-CLIP: {'; '.join(wrong)}",
            remedy="Correct the file, or remove it, if the model was trained as Chinese-CLIP is.",
        )


def _without_prefix(state: Weights) -> Weights:
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _check_marks(where: Path, state: Weights, marks: tuple[str, ...], prefixes: tuple[str, ...]) -> None:
    missing = [mark for mark in marks if mark not in state]
    if missing:
        other = [name for name in state if name not in marks and not name.startswith(prefixes)]
        unexpected = f"; unexpected {some(other)}" if other else ""
        raise CheckpointError(
            f"{where} is not a Chinese-CLIP checkpoint: missing {some(missing)}{unexpected}", remedy=EXPECTED
        )


def _names(checkpoint: Checkpoint, names: list[str]) -> list[str]:
    return list(dict.fromkeys(checkpoint.name_in_file(name) for name in names))


def _open_folder(folder: Path) -> TransformersFolder:
    config, files = read_folder(folder, "chinese_clip", EXPECTED, "*.pt")
    return TransformersFolder(folder, files, config)


def _openai_clip(file: Path, how: str = "") -> CheckpointError:
    """The error for a checkpoint of OpenAI's CLIP, which is the most common mistake."""
    return CheckpointError(
        f"{file} looks like a model of OpenAI's CLIP{how}, not of Chinese-CLIP: its text tower is another",
        remedy=EXPECTED,
    )
