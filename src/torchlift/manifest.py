"""What manifest.json says: components, variants, evidence, and the SHA-256 of every file; validated as it is read."""

from __future__ import annotations

import glob
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from torchlift.declare.answers import Answer
from torchlift.declare.call import Call
from torchlift.declare.check import completed_answers, completed_inputs
from torchlift.declare.inputs import Input
from torchlift.errors import BundleError, InputError, ManifestVersionError, SignatureError
from torchlift.evidence import Benchmark, Choice, Conversion, Gate, Scoring, Verification
from torchlift.evidence import Precision as Precision
from torchlift.folder import Folder
from torchlift.signature import Signature
from torchlift.storage import is_folder
from torchlift.upgrade import upgraded

MANIFEST = "manifest.json"
MANIFEST_VERSION = 3

_DEEPEST, _LONGEST = 16, 200
"""Parts of a path in a bundle, and bytes of a part; torchlift itself writes three or four short ones."""


SOURCE_FORM = "fp32"
"""The form of a component's own graph."""


@dataclass(frozen=True)
class FileRecord:
    """``sha256`` in hexadecimal, ``size`` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Component:
    """One exportable graph of the model. ``model`` and ``goldens`` are paths within the bundle; ``key`` is the hash of
    everything that the export depended on; ``parameters`` counts the weights. ``assets`` maps the role of each file
    that the model was exported with, such as its vocabulary, to that file's SHA-256.

    ``inputs`` and ``answers`` declare what each input takes and what each output says, by name. What is not declared is
    an array as it is. Where the network has no ONNX form, ``model`` is empty and ``failure`` says why; a program for
    PyTorch then stands in its place. ``exporter`` is the strategy that wrote it, ``tried`` says why those before did
    not. ``call`` says how the network itself is called, where that is known. ``keep`` names the modules that the family
    keeps in FP32 in every converted graph, ``keep_int8`` those that it keeps so in INT8 graphs.

    Raises SignatureError for a declaration that its tensor does not fit.
    """

    name: str
    signature: Signature
    model: str
    goldens: str
    exporter: str
    opset: int
    parameters: int
    key: str
    inputs: dict[str, Input] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    assets: dict[str, str] = field(default_factory=dict)
    call: Call | None = None
    failure: str = ""
    tried: dict[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    keep_int8: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", completed_inputs(self.signature, self.inputs))
        object.__setattr__(self, "answers", completed_answers(self.signature, self.answers))

    def inputs_of(self, kind: type) -> list[str]:
        """The names of the inputs that are declared as a kind, such as ImageInput."""
        return [name for name, declared in self.inputs.items() if isinstance(declared, kind)]


@dataclass(frozen=True)
class Graph:
    """A component's graph converted from its source to a ``form`` such as fp16 or int8-u8s8, from which variants are
    built. ``model`` is the path of the graph, ``files`` all that belongs to it, ``key`` the hash of everything that the
    conversion depended on. One that could not be converted has no files, and says why in ``failure``.
    """

    component: str
    form: str
    key: str
    model: str = ""
    files: tuple[str, ...] = ()
    failure: str = ""
    conversion: Conversion | None = None

    @property
    def name(self) -> str:
        return f"{self.component}/{self.form}"


@dataclass(frozen=True)
class Variant:
    """A component made ready for one backend at one precision, by one of the methods that the backend has for it.

    ``model`` is the path that the backend opens, ``files`` all that it needs, ``key`` the hash of everything that the
    build depended on, ``form`` the graph that it was built from. A variant that could not be built has no files, and
    says why in ``failure``. One in ``reserve`` was not asked for: it serves where none that was holds the gate.
    """

    component: str
    backend: str
    precision: Precision
    key: str
    model: str = ""
    files: tuple[str, ...] = ()
    failure: str = ""
    verification: Verification | None = None
    method: str = ""
    form: str = SOURCE_FORM
    reserve: bool = False

    @property
    def recipe(self) -> str:
        """The precision, with the method where it is not the plain one: int8-dynamic."""
        return f"{self.precision}-{self.method}" if self.method else self.precision

    @property
    def name(self) -> str:
        return f"{self.component}/{self.backend}/{self.recipe}"


Named = TypeVar("Named", Component, Graph, Variant)


@dataclass(frozen=True)
class Manifest:
    """What manifest.json holds. ``key`` is the hash of the model that the bundle was made from; ``settings`` are the
    family's own, such as the logit scale of CLIP; ``assets`` maps a role such as ``vocabulary`` to a path within the
    bundle; ``pipeline`` names how the bundle is used.
    """

    name: str
    family: str
    key: str
    settings: dict[str, Any]
    pipeline: str = "tensors"
    assets: dict[str, str] = field(default_factory=dict)
    components: tuple[Component, ...] = ()
    graphs: tuple[Graph, ...] = ()
    variants: tuple[Variant, ...] = ()
    scoring: Scoring | None = None
    gate: Gate = field(default_factory=Gate)
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    made_with: dict[str, str] = field(default_factory=dict)
    version: int = MANIFEST_VERSION
    format: Literal["torchlift-bundle"] = "torchlift-bundle"

    def component(self, name: str) -> Component:
        return _named("component", name, self.components)

    def variant(self, name: str) -> Variant:
        """The variant of that name, such as ``image/openvino/int8``. Without the component, as ``openvino/int8``, it is
        the one of the only component that has such a variant.

        Raises BundleError where there is none, or several components have one.
        """
        found = self.variants_called(name)
        if len(found) > 1:
            raise BundleError(
                f"{name} names variants of {' and '.join(v.component for v in found)}",
                remedy=f"Name one of {', '.join(v.name for v in found)}.",
            )
        return found[0]

    def variants_called(self, name: str) -> tuple[Variant, ...]:
        """The variant of that name; for a name without the component, that of each component that has one.

        Raises BundleError where there is none.
        """
        whole = tuple(v for v in self.variants if v.name == name)
        found = whole or tuple(v for v in self.variants if f"{v.backend}/{v.recipe}" == name)
        return found or (_named("variant", name, self.variants),)

    def graph(self, component: str, form: str) -> Graph | None:
        """The component's graph of a form other than the source's; None where it was not made."""
        return next((g for g in self.graphs if (g.component, g.form) == (component, form)), None)

    def variants_of(self, component: str) -> tuple[Variant, ...]:
        return tuple(v for v in self.variants if v.component == component)

    def files_of(self, owner: Component | Graph | Variant) -> tuple[str, ...]:
        """All files that belong to a graph, a variant, or the source graph of a component."""
        if not isinstance(owner, Component):
            return owner.files
        folder = PurePosixPath(owner.goldens).parent
        return tuple(path for path in self.files if PurePosixPath(path).parent == folder)

    def hashes(self, paths: tuple[str, ...]) -> dict[str, str]:
        return {path: self.files[path].sha256 for path in paths}

    def size(self, variant: Variant) -> int:
        """Bytes on disk that the variant needs."""
        return sum(self.files[path].size for path in variant.files)

    def with_component(self, component: Component) -> Manifest:
        """Add or replace a component; what was built from another version of it is dropped."""
        before = {c.name: c for c in self.components}
        changed = component.name in before and before[component.name].key != component.key
        before[component.name] = component
        manifest = replace(self, components=tuple(before.values()))
        if not changed:
            return manifest
        return replace(
            manifest,
            graphs=tuple(g for g in manifest.graphs if g.component != component.name),
            variants=tuple(v for v in manifest.variants if v.component != component.name),
            scoring=None,
            benchmarks={k: v for k, v in manifest.benchmarks.items() if k != component.name},
            choices={k: v for k, v in manifest.choices.items() if k != component.name},
        )

    def with_graph(self, graph: Graph) -> Manifest:
        """Add a graph, or replace the one of the same name."""
        graphs = {g.name: g for g in self.graphs}
        graphs[graph.name] = graph
        return replace(self, graphs=tuple(graphs.values()))

    def with_variant(self, variant: Variant) -> Manifest:
        """Add a variant, or replace the one of the same name."""
        variants = {v.name: v for v in self.variants}
        variants[variant.name] = variant
        return replace(self, variants=tuple(variants.values()))

    def referenced(self) -> set[str]:
        """Every path that the manifest points to."""
        paths = set(self.assets.values())
        owners: tuple[Component | Graph | Variant, ...] = (*self.components, *self.graphs, *self.variants)
        for owner in owners:
            paths |= set(self.files_of(owner))
        if self.scoring is not None:
            paths.add(self.scoring.answers)
        return paths


def _named(kind: str, name: str, items: Iterable[Named]) -> Named:
    found = {item.name: item for item in items}
    if name not in found:
        raise BundleError(f"there is no {kind} {name!r}", remedy=f"The {kind}s are {', '.join(found) or 'none'}.")
    return found[name]


def encode_manifest(manifest: Manifest) -> bytes:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of manifest.json."""
    import msgspec

    schema: dict[str, Any] = _plain(msgspec.json.schema(Manifest))
    return schema


def _plain(schema: Any) -> Any:
    """A part of a schema as all releases of msgspec write it: they differ in how they indent what docstrings say, and
    in whether an empty mapping is a default.
    """
    if isinstance(schema, dict):
        kept = {name: part for name, part in schema.items() if name != "default" or part != {}}
        return {name: _plain(part) for name, part in kept.items()}
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    return inspect.cleandoc(schema) if isinstance(schema, str) else schema


def read_manifest(folder: Path) -> Manifest:
    """Read and validate manifest.json; raises BundleError, or ManifestVersionError for one from a newer torchlift."""
    if not is_folder(folder):
        previous = (
            sorted(folder.parent.glob(f".{glob.escape(folder.name)}.previous*")) if is_folder(folder.parent) else []
        )
        kept = f"A ship was cut off here; the bundle before it is {previous[-1]}." if previous else ""
        raise BundleError(f"{folder} is not a folder", remedy=kept or "Give the folder that `torchlift ship` wrote.")
    try:
        data = Folder(folder).read(MANIFEST)
    except OSError as error:
        raise BundleError(
            f"{folder} has no readable {MANIFEST}: {error.strerror}",
            remedy="Give the folder that `torchlift ship` or `torchlift export` wrote.",
        ) from error
    return decode_manifest(data, folder / MANIFEST)


def decode_manifest(data: bytes, file: Path) -> Manifest:
    """Validate the content of manifest.json, of this version or an earlier one; ``file`` is named in errors, which are
    those of :func:`read_manifest`.
    """
    import msgspec

    try:
        head = msgspec.json.decode(data, type=dict[str, Any])
        if head.get("format") != "torchlift-bundle":
            raise BundleError(f"{file} is not a torchlift manifest", remedy="Give a folder that torchlift wrote.")
        if isinstance(head.get("version"), int) and head["version"] > MANIFEST_VERSION:
            raise ManifestVersionError(
                f"{file} has version {head['version']}; this torchlift reads up to {MANIFEST_VERSION}",
                remedy="Upgrade it: pip install -U torchlift.",
            )
        manifest = msgspec.convert(_upgraded(head), Manifest)
    except (msgspec.MsgspecError, SignatureError, InputError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{file} is damaged: {error}", remedy="Copy the bundle again from where it was made."
        ) from error
    _check_paths(file, manifest)
    return manifest


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A manifest of an earlier version as one of this. Raises msgspec.ValidationError for what is no manifest."""
    import msgspec

    try:
        return upgraded(data)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise msgspec.ValidationError(f"not what an earlier version wrote: {type(error).__name__}: {error}") from error


def _check_paths(file: Path, manifest: Manifest) -> None:
    for path in manifest.files:
        if not is_inside(path):
            raise BundleError(f"{file} points outside the bundle: {path!r}", remedy="Do not use this bundle.")
    folders = {folder.as_posix() for path in manifest.files for folder in PurePosixPath(path).parents}
    for path in manifest.files:
        if path in folders or not _is_plain(path):
            raise BundleError(
                f"{file} lists {path!r}, which torchlift does not write: hidden, too deep or long, or above another",
                remedy="Do not use this bundle.",
            )
    for component in manifest.components:
        if not component.name.isidentifier():
            raise BundleError(
                f"{file} names a component {component.name!r}, which is not an identifier",
                remedy="Do not use this bundle.",
            )
    for variant in manifest.variants:
        if not re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]*", f"{variant.backend}/{variant.method}"):
            raise BundleError(f"{file} names a variant {variant.name!r}", remedy="Do not use this bundle.")
    for component in manifest.components:
        _check_component(file, manifest, component)
    used = manifest.referenced() | {path for c in manifest.components for path in (c.model, c.goldens) if path}
    owners: list[Graph | Variant] = [*manifest.graphs, *manifest.variants]
    made = [owner for owner in owners if not owner.failure]
    used |= {owner.model for owner in made}
    unknown = sorted(used - manifest.files.keys())
    if unknown:
        raise BundleError(f"{file} is damaged: no checksum for {unknown[0]!r}", remedy="Ship the model again.")
    for owner in made:
        if owner.model not in owner.files:
            raise BundleError(f"{file} is damaged: {owner.name} lacks its own model", remedy="Ship the model again.")


def _check_component(file: Path, manifest: Manifest, component: Component) -> None:
    if not component.signature.outputs:
        raise BundleError(f"{file} names no output of {component.name}", remedy="Do not use this bundle.")
    for role, digest in component.assets.items():
        record = manifest.files.get(manifest.assets.get(role, ""))
        if record is None or record.sha256 != digest:
            raise BundleError(
                f"{file}: the {role} is not the one that {component.name} was exported with",
                remedy="Copy the bundle again from where it was made, or ship the model again.",
            )


def _is_plain(path: str) -> bool:
    """Whether a path is short and shallow enough for any disk, and has no hidden part and no manifest in it."""
    parts = PurePosixPath(path).parts
    fits = len(parts) <= _DEEPEST and all(len(part.encode()) <= _LONGEST for part in parts)
    return fits and MANIFEST not in parts and not any(part.startswith(".") for part in parts)


def is_inside(path: str) -> bool:
    """Whether ``path`` names a file within a bundle, on every system, and is written as torchlift writes it: with no
    empty part, no ``.`` and no control character.
    """
    pure = PurePosixPath(path)
    plain = pure.as_posix() == path and path.isprintable() and not {"\\", ":"} & {*path}
    return plain and bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts
