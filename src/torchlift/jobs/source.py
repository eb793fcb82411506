"""What is shipped: a checkpoint or a file that a family reads, or a network that lives in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchlift.declare.module import ModuleDeclaration
from torchlift.errors import CheckpointError
from torchlift.families import family
from torchlift.families.base import LoadOptions, Model
from torchlift.families.module import live_model
from torchlift.families.quiet import libraries_quiet
from torchlift.folder import Folder
from torchlift.manifest import read_manifest
from torchlift.signature import Axis


@dataclass(frozen=True)
class Source:
    """What to ship: a family's name and where its model is. The same in every process that opens it."""

    family: str
    location: str
    options: LoadOptions = field(default_factory=LoadOptions)

    @property
    def title(self) -> str:
        return Path(self.location).name

    def load(self) -> Model:
        return family(self.family).load(self.location, self.options)


@dataclass(frozen=True, eq=False)
class LiveSource:
    """A model whose network is an object of this process. Other processes get it as a torch.export program."""

    model: Model

    @property
    def title(self) -> str:
        return self.model.name

    def load(self) -> Model:
        return self.model


AnySource = Source | LiveSource


@libraries_quiet()
def live_source(network: Any, told: Mapping[str, Any], axes: Iterable[Axis]) -> LiveSource:
    """A network in this process, with what :class:`~torchlift.jobs.keywords.NetworkKeywords` say of it.

    The network itself is not changed: a copy is taken. Raises InputError for what is no network, ModuleSourceError and
    SignatureError for what does not fit it.
    """
    declaration = ModuleDeclaration(
        inputs=tuple(told.get("inputs") or ()),
        outputs=tuple(told.get("outputs") or ()),
        axes=tuple(axes),
        preprocess=dict(told.get("preprocess") or {}),
        postprocess=dict(told.get("postprocess") or {}),
        sample=told.get("sample"),
        example=told.get("example"),
    )
    return LiveSource(live_model(network, declaration))


@libraries_quiet()
def source_of(bundle: Path, location: str) -> Source:
    """Where the model of a bundle is, to be loaded with the bundle's own ranges, image size and vocabulary.

    Raises CheckpointError where another model is there.
    """
    manifest = read_manifest(bundle)
    vocabulary = manifest.assets.get("vocabulary")
    options = LoadOptions(
        axes={c.name: {axis.name: axis for axis in c.signature.axes} for c in manifest.components},
        vocabulary=Folder(bundle).place(vocabulary) if vocabulary else None,
        resolution=manifest.settings.get("resolution"),
    )
    source = Source(manifest.family, location, options)
    if source.load().key != manifest.key:
        raise CheckpointError(
            f"{Path(location).name} is not what {bundle.name} was made from",
            remedy="Give the checkpoint that was shipped, or ship this one.",
        )
    return source
