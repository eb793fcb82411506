"""Finds a BERT on disk or on the hub: a folder that transformers or sentence-transformers saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchlift.errors import CheckpointError
from torchlift.families.bert.heads import HEADS, Head, head_of
from torchlift.families.bert.sentences import MODULES, Modules, read_modules
from torchlift.families.bert.tokenizers import FILES
from torchlift.families.transformers_folder import download, is_hub_name, read_folder

MODEL_TYPES = ("bert", "roberta", "distilbert", "electra", "mpnet", "xlm-roberta", "camembert", "deberta-v2")
"""What config.json calls the kinds of model that are read."""

EXPECTED = (
    f"Give a folder, or a name on the hub, of a model of one of the types {', '.join(MODEL_TYPES)}, that transformers "
    f"saved as an encoder or with one of the heads {', '.join(h.suffix for h in HEADS if h.suffix)}, or that "
    "sentence-transformers saved."
)


@dataclass(frozen=True)
class Folder:
    """A model on disk.

    ``root`` has the tokenizer and what sentence-transformers wrote; ``config`` is the content of the config.json of the
    network, whose weights are in ``files``. ``modules`` are those of sentence-transformers; None without.
    """

    root: Path
    config: Mapping[str, Any]
    files: tuple[Path, ...]
    head: Head
    modules: Modules | None = None

    @property
    def model_type(self) -> str:
        """What config.json calls the kind of model."""
        return str(self.config["model_type"])


def open_folder(source: str) -> Folder:
    """Find out what ``source`` is; a name on the hub is downloaded.

    Raises CheckpointError where it is no model that is known.
    """
    path = Path(source).expanduser()
    if path.is_file():
        raise CheckpointError(f"{path} is a file", remedy=EXPECTED)
    if not path.is_dir():
        if not is_hub_name(source):
            raise CheckpointError(f"{source} does not exist", remedy=EXPECTED)
        path = download(source, *FILES, "merges.txt")
    modules = read_modules(path) if (path / MODULES).is_file() else None
    config, files = read_folder(modules.network if modules else path, MODEL_TYPES, EXPECTED)
    return Folder(path, config, files, head_of(config, modules is not None, EXPECTED), modules)
