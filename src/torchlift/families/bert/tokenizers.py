"""The tokenizer of a folder as one tokenizer.json, just as transformers uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from torchlift.errors import CheckpointError
from torchlift.families.quiet import libraries_quiet

FILE = "tokenizer.json"

FILES = (FILE, "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spm.model", "spiece.model")
"""What a tokenizer is read from. transformers makes one without any words where a folder has none of these."""


@dataclass(frozen=True)
class FolderTokenizer:
    """A tokenizer.json, its ``size`` (one more than the greatest id), and the ids of special tokens: ``pad``, the
    ``marks`` before and behind a text, the one that stands for a masked word, and all of them.

    ``longest`` is the most tokens of a text that the folder states; None where it states none.
    """

    content: bytes
    size: int
    pad: int
    marks: tuple[int, int]
    special: tuple[int, ...]
    mask: int | None
    longest: int | None


def read_tokenizer(folder: Path, config: Mapping[str, Any], *, lowercase: bool = False) -> FolderTokenizer:
    """Read the tokenizer of a folder: its tokenizer.json, or one that transformers makes of vocab.txt, of vocab.json
    and merges.txt, or of a sentencepiece model. No code of the folder runs. ``lowercase``: texts are made lower case
    first.

    Raises CheckpointError where there is none, or where it is damaged.
    """
    if not any((folder / name).is_file() for name in FILES):
        raise CheckpointError(f"{folder} has no tokenizer", remedy=f"Put one of {', '.join(FILES)} into it.")
    try:
        read_config = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(
            {key: value for key, value in config.items() if key != "auto_map"}
        )
        with libraries_quiet():
            found = transformers.AutoTokenizer.from_pretrained(
                str(folder), config=read_config, trust_remote_code=False, local_files_only=True
            )
            backend: tokenizers.Tokenizer = found.backend_tokenizer
            backend.no_truncation()
            backend.no_padding()
            if lowercase:
                first, own = tokenizers.normalizers.Lowercase(), backend.normalizer
                backend.normalizer = first if own is None else tokenizers.normalizers.Sequence([first, own])
        content, ids = backend.to_str(), [*backend.get_vocab().values()]
        around = backend.encode("").ids or [found.pad_token_id or 0]
    except (
        BaseException
    ) as error:  # transformers raises many kinds, and tokenizers PanicException, which is no Exception
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise CheckpointError(
            f"{folder} has no tokenizer that can be read: {str(error).strip().partition(chr(10))[0]}",
            remedy=f"Put the {FILE} that came with the model into the folder, or its vocab.txt.",
        ) from error
    stated = found.model_max_length
    return FolderTokenizer(
        content=content.encode("utf-8"),
        size=max(ids, default=-1) + 1,
        pad=found.pad_token_id or 0,
        marks=(around[0], around[-1]),
        special=tuple(sorted({id_ for id_ in found.all_special_ids if id_ is not None})),
        mask=found.mask_token_id,
        longest=int(stated) if isinstance(stated, int) and 2 < stated < 1 << 20 else None,
    )
