"""Text inputs of a user's own module: the tokenizer's file, which goes into the bundle, and ids to try it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from torchlift.declare.inputs import Input, QuestionInput, TextInput, TextPart
from torchlift.declare.module import ModuleDeclaration
from torchlift.errors import InputError, ModuleSourceError
from torchlift.processing.questions import QuestionTokenizer
from torchlift.processing.tokens import Tokenizer, open_tokenizer
from torchlift.signature import TensorSpec
from torchlift.storage import open_regular


@dataclass(frozen=True)
class ModuleTexts:
    """``assets`` are the tokenizers' files (role -> file name, content); ``inputs`` is what is declared, with a role in
    the place of each path; ``tokenizers`` are by the name of the text input or the question input.
    """

    assets: Mapping[str, tuple[str, bytes]]
    inputs: Mapping[str, Input]
    tokenizers: Mapping[str, Tokenizer | QuestionTokenizer]

    @classmethod
    def read(cls, folder: Path, declared: Mapping[str, Input]) -> ModuleTexts:
        """Read the tokenizers that are declared, relative to the ``folder`` of the module.

        Raises ModuleSourceError for one that is not there, cannot be read, or has the name of another.
        """
        assets: dict[str, tuple[str, bytes]] = {}
        inputs, tokenizers = dict(declared), dict[str, Tokenizer | QuestionTokenizer]()
        for name, text in declared.items():
            if not isinstance(text, (TextInput, QuestionInput)):
                continue
            file = folder / text.tokenizer
            content = _content(file, name)
            role = file.name
            if assets.setdefault(role, (role, content))[1] != content:
                raise ModuleSourceError(
                    f"two tokenizers are called {role}",
                    remedy="Give their files different names: both go into the bundle.",
                )
            try:
                tokenizers[name] = (
                    QuestionTokenizer(content, text)
                    if isinstance(text, QuestionInput)
                    else open_tokenizer(text, role, content)
                )
            except InputError as error:
                raise ModuleSourceError(f"{file}: {error.message}", remedy=error.remedy) from error
            inputs[name] = msgspec.structs.replace(text, tokenizer=role)
        return cls(assets, inputs, tokenizers)

    def bounded(self, spec: TensorSpec) -> TensorSpec:
        """An input with the bounds that its declaration tells, where it states none: ids are those of the tokenizer."""
        if spec.bounds is not None:
            return spec
        if spec.name in self.tokenizers:
            return replace(spec, bounds=(0, self.tokenizers[spec.name].size))
        return replace(spec, bounds=(0, 2)) if isinstance(self.inputs.get(spec.name), TextPart) else spec

    def fill(self, declaration: ModuleDeclaration, feeds: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Make drawn ids look like texts: rows of various lengths with padding, the first of full length, and masks and
        types that agree with them.
        """
        for name, tokenizer in self.tokenizers.items():
            ids = feeds[name]
            lengths = rng.integers(1, ids.shape[1] + 1, len(ids))
            lengths[0] = ids.shape[1]
            kept = np.arange(ids.shape[1])[None, :] < lengths[:, None]
            feeds[name] = np.where(kept, ids, tokenizer.pad).astype(ids.dtype)
            for spec in declaration.inputs:
                part = self.inputs.get(spec.name)
                if isinstance(part, TextPart) and part.of == name:
                    feeds[spec.name] = (kept if part.part == "mask" else np.zeros_like(kept)).astype(spec.dtype)


def _content(file: Path, name: str) -> bytes:
    try:
        with open_regular(file) as stream:
            return stream.read()
    except OSError as error:
        raise ModuleSourceError(
            f"the tokenizer of {name}, {file}, cannot be read: {error.strerror}",
            remedy="Name it by its path relative to the module's file.",
        ) from error
