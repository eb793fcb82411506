"""BERT and its kin as a family: a folder becomes a model with one component, its network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torchlift.checksums import key_of, sha256
from torchlift.declare.answers import Answer, Span
from torchlift.declare.inputs import Input
from torchlift.errors import CheckpointError, SignatureError, SourceError
from torchlift.families.attention import style_of
from torchlift.families.base import Family, LoadOptions, Model, ModelComponent
from torchlift.families.bert.declared import answers_of, inputs_of, positions_of, signature_of
from torchlift.families.bert.folder import EXPECTED, Folder, open_folder
from torchlift.families.bert.network import ExportedNetwork, Network, build, last_layers
from torchlift.families.bert.questions import notes
from torchlift.families.bert.samples import TokenSampler
from torchlift.families.bert.sentences import finish_of
from torchlift.families.bert.tokenizers import FILE, FolderTokenizer, read_tokenizer
from torchlift.families.bert.weights import check_state, fill, read_state
from torchlift.signature import Signature

COMPONENT = "model"
AXES = {COMPONENT: ("batch", "sequence")}
"""Component -> the axes that may vary."""

TOKENIZER = "tokenizer"
"""The role of the asset that holds the tokenizer."""


class Bert(Family):
    """Reads folders that transformers or sentence-transformers saved, and names on the hub."""

    name: ClassVar[str] = "bert"

    def load(self, source: str, options: LoadOptions) -> Model:
        """Find the model at ``source``, and check its tokenizer, and its weights by name and shape.

        Raises CheckpointError (UnsafeCheckpointError for a pickle with code in it), SignatureError for axes that do not
        fit.
        """
        options.check_axes(AXES)
        if options.resolution is not None:
            raise SourceError("a resolution is stated, and the model takes texts", remedy="Leave it out.")
        folder = open_folder(source)
        network = build(folder.config, folder.head)
        check_state(network, _state(folder, network), folder.files[-1], EXPECTED)
        config: Any = network.config
        tokenizer = _tokenizer(folder)
        if tokenizer.size > config.vocab_size:
            raise CheckpointError(
                f"the tokenizer of {folder.root} has {tokenizer.size:,} tokens, and the network {config.vocab_size:,}",
                remedy="Give the folder with the tokenizer that the network was trained with.",
            )
        longest = positions_of(config)
        signature = signature_of(folder, config, longest, options, COMPONENT)
        if signature.axis("sequence").max > longest:
            raise SignatureError(
                f"axis sequence: {signature.axis('sequence')} is longer than the {longest} positions of the network",
                remedy=f"Use a maximum of {longest} or less.",
            )
        inputs = inputs_of(folder, signature, tokenizer, TOKENIZER)
        answers = answers_of(folder, config, signature)
        files = [
            *folder.files,
            *(f for layer in (folder.modules.layers if folder.modules else ()) for f in layer.files),
        ]
        return BertModel(
            name=_name(folder, config),
            family=self.name,
            settings={},
            assets={TOKENIZER: (FILE, tokenizer.content)},
            key=key_of(
                self.name,
                [sha256(file) for file in files],
                folder.config,
                str(folder.modules and folder.modules.described),
                hashlib.sha256(tokenizer.content).hexdigest(),
                sorted(inputs.items()),
                sorted(answers.items()),
                signature,
            ),
            notes=_notes(folder, answers),
            component_names=(COMPONENT,),
            pipeline=folder.head.pipeline,
            folder=folder,
            signature=signature,
            tokenizer=tokenizer,
            inputs=inputs,
            answers=answers,
        )


@dataclass(frozen=True)
class BertModel(Model):
    """A BERT on disk, with the component ``model``."""

    name: str
    family: str
    settings: Mapping[str, Any]
    assets: Mapping[str, tuple[str, bytes]]
    key: str
    component_names: tuple[str, ...]
    folder: Folder
    signature: Signature
    tokenizer: FolderTokenizer
    inputs: Mapping[str, Input]
    answers: Mapping[str, Answer]
    pipeline: str = "tensors"
    notes: tuple[str, ...] = ()

    def declared(self, name: str) -> Signature:
        return self.signature

    def component(self, name: str, *, attention: str = "sdpa") -> ModelComponent:
        """Load the network. It takes ids, a mask and, where it knows them, types, int64 [batch, sequence].

        Raises SourceError for an unknown name or attention, CheckpointError for weights that are not finite.
        """
        self.check_component(name)
        style = style_of(attention)
        network = build(self.folder.config, self.folder.head)
        fill(network, _state(self.folder, network))
        config: Any = network.config
        finish = None if self.folder.modules is None else finish_of(self.folder.modules, config.hidden_size)
        reference = Network(network, len(self.signature.outputs), finish).eval()
        return ModelComponent(
            name=name,
            signature=self.signature,
            reference=reference,
            exported=ExportedNetwork(reference, style).eval(),
            sample=TokenSampler(
                self.signature.input_names,
                config.vocab_size,
                self.tokenizer.special,
                self.tokenizer.marks,
                self.tokenizer.pad,
            ),
            inputs=self.inputs,
            answers=self.answers,
            keep=tuple(f"network.{name}" for name in last_layers(network)),
        )


def _state(folder: Folder, network: Any) -> dict[str, Any]:
    return read_state(folder.files, network.base_model_prefix, encoder=folder.head.suffix == "", expected=EXPECTED)


def _tokenizer(folder: Folder) -> FolderTokenizer:
    if folder.modules is None:
        return read_tokenizer(folder.root, folder.config)
    return read_tokenizer(folder.modules.network, folder.config, lowercase=folder.modules.lowercase)


def _name(folder: Folder, config: Any) -> str:
    """For example ``bert-question-answering-768x12``."""
    return f"{folder.model_type}-{folder.head.name}-{config.hidden_size}x{config.num_hidden_layers}"


def _notes(folder: Folder, answers: Mapping[str, Answer]) -> tuple[str, ...]:
    spans = [answer for answer in answers.values() if isinstance(answer, Span)]
    if spans:
        return notes(spans[0])
    if folder.modules is not None and folder.modules.prompt:
        said = (
            f"the prompt {folder.modules.prompt!r} of the folder is not put before the texts: write it there yourself"
        )
        return (said,)
    return ()
