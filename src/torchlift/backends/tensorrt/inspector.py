"""Reads TensorRT's description of an engine: its layers, the ONNX nodes of each, and the types they compute in."""

from __future__ import annotations

import functools
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchlift.errors import BackendError, some
from torchlift.manifest import Precision

_TYPES = (
    ("bf16", re.compile(r"BF16|BFloat16", re.IGNORECASE)),
    ("fp16", re.compile(r"FP16|Half", re.IGNORECASE)),
    ("fp32", re.compile(r"FP32|Float", re.IGNORECASE)),
    ("uint8", re.compile(r"UInt8", re.IGNORECASE)),
    ("int8", re.compile(r"Int8", re.IGNORECASE)),
    ("int32", re.compile(r"Int32", re.IGNORECASE)),
    ("int64", re.compile(r"Int64", re.IGNORECASE)),
    ("bool", re.compile(r"Bool", re.IGNORECASE)),
)
"""Precision -> how TensorRT describes it: "Row major linear FP16 format" in 8.5, "Half" in 10 and 11. The first pattern
that matches counts."""

_KNOWN = frozenset(name for name, _ in _TYPES)

_COMPUTED = frozenset({"fp32", "fp16", "bf16", "int8"})
"""The precisions that a network computes in. Other types are those of indices and conditions."""

_NAMED = 3
"""How many layers a note names."""

_MOVING = frozenset({"Reformat", "NoOp", "Constant", "Shuffle", "ShapeHostToDevice", "DeviceToShapeHost", "Slice"})
"""Types of layers that only move numbers."""

_OPAQUE = frozenset({"Myelin", "kgen"})
"""Types of layers that stand for a whole subgraph. TensorRT describes only their inputs and outputs."""

_PRODUCT = re.compile(r"conv|gemm|matmul|matrixmultiply|fullyconnected", re.IGNORECASE)
"""Found in the type of a layer that multiplies by weights."""

_PROFILE = re.compile(r" \[profile (\d+)\]$")
_FOREIGN = re.compile(r"^\{ForeignNode\[(?P<first>.+?)\.\.\.(?P<last>.+)\]\}$")
_FUSED = re.compile(r" \+ | \|\| |, |PWN\(")
"""Separates the names of fused layers: "A + B", "A || B", and "PWN(PWN(A), B)" for pointwise ones."""

_METADATA = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine.

    ``kind`` is TensorRT's type of the layer. ``reads`` and ``writes`` are the precisions of its inputs and outputs.
    ``holds`` is the precision of its weights, "" where it has none. ``nodes`` are the ONNX nodes that it computes, as
    far as they are known; of a subgraph they are the first and the last.
    """

    name: str
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    nodes: tuple[str, ...]
    holds: str = ""

    @property
    def computes(self) -> bool:
        return self.kind not in _MOVING

    @property
    def opaque(self) -> bool:
        return self.kind in _OPAQUE

    @property
    def multiplies(self) -> bool:
        return _PRODUCT.search(self.kind) is not None

    @property
    def known(self) -> set[str]:
        """All precisions that TensorRT reports. 8.5 reports none for a layer of varying sizes without weights."""
        return {*self.reads, *self.writes, self.holds} & _KNOWN

    @property
    def made(self) -> set[str]:
        """The precisions of its outputs and weights.

        Its inputs do not count: the network itself may have integers there.
        """
        return {*self.writes, self.holds} & _KNOWN

    @property
    def precision(self) -> str:
        """The precision of its first output, else of its weights, else TensorRT's own word for the output."""
        told = next((p for p in (*self.writes[:1], self.holds) if p in _KNOWN), None)
        return told or (self.writes[0] if self.writes else "?")


def of_profile(texts: Sequence[str], profile: int) -> list[str]:
    """Those of the descriptions (JSON, one for each layer) that belong to one profile.

    An engine has layers of its own for each profile. From the second profile on, their names end in ``[profile N]``.
    """
    names = {text: _PROFILE.search(json.loads(text)["Name"]) for text in texts}
    return [text for text in texts if (int(found[1]) if (found := names[text]) else 0) == profile]


def read_layers(texts: Sequence[str]) -> list[EngineLayer]:
    """The layers that TensorRT's engine inspector describes in these texts, which are JSON at detailed verbosity."""
    return [_layer(json.loads(text)) for text in texts]


def _layer(entry: dict[str, Any]) -> EngineLayer:
    reads, writes = (
        [_precision(tensor.get("Format/Datatype") or tensor.get("DataType", "")) for tensor in entry.get(key, ())]
        for key in ("Inputs", "Outputs")
    )
    name, weights = entry["Name"], entry.get("Weights")
    return EngineLayer(
        name=name,
        kind=entry.get("LayerType", ""),
        reads=tuple(reads),
        writes=tuple(writes),
        nodes=nodes_of(name, entry.get("Metadata", "")),
        holds=_precision(weights.get("Type", "")) if isinstance(weights, dict) and weights.get("Count") else "",
    )


def _precision(words: str) -> str:
    return next((name for name, pattern in _TYPES if pattern.search(words)), words)


def nodes_of(name: str, metadata: str) -> tuple[str, ...]:
    """The ONNX nodes of a layer.

    From 8.6 on its metadata names them. Before, its own name does: it joins the names of the nodes that were fused. A
    layer that TensorRT inserted between others has no nodes.
    """
    if found := _METADATA.findall(metadata):
        return tuple(dict.fromkeys(found))
    name = _PROFILE.sub("", name)
    if name.startswith("Reformatting"):
        return ()
    return ends_of(name) if _FOREIGN.match(name) else _parts(name)


def ends_of(name: str) -> tuple[str, ...]:
    """The first and the last node of a layer that stands for a subgraph, as far as its name holds them.

    Empty for any other layer.
    """
    foreign = _FOREIGN.match(_PROFILE.sub("", name))
    return (*_parts(foreign["first"])[:1], *_parts(foreign["last"])[-1:]) if foreign else ()


def _parts(name: str) -> tuple[str, ...]:
    parts = (part.rstrip(")") for part in _FUSED.split(name) if not part.startswith("(Unnamed Layer"))
    return tuple(dict.fromkeys(part for part in parts if part))


def require_precision(layers: Sequence[EngineLayer], wanted: Precision) -> bool:
    """Raise BackendError for an engine that does not compute in the precision that was asked for.

    In an FP32 engine no layer may compute in another type, though a layer may read integers. In an FP16 or INT8 engine
    at least one layer must compute in that type.

    Returns False where TensorRT's description does not decide it: a subgraph may hold integers that are not described,
    and a product without any description may compute in any type.
    """
    computing = [layer for layer in layers if layer.computes]
    telling = [layer for layer in computing if layer.known]
    silent = any(layer.multiplies and not layer.known for layer in computing)
    if not telling or (wanted == "int8" and any(layer.opaque for layer in computing)):
        return False
    if wanted == "fp32":
        wrong = [layer for layer in telling if layer.known & {"fp16", "bf16"} or "int8" in layer.made]
        if wrong:
            raise _other(wanted, f"{len(wrong)} of {len(computing)} layers compute in {wrong[0].precision}", wrong[0])
        return not silent
    there = any(wanted in layer.known for layer in telling)
    if not there and not silent:
        raise _other(wanted, f"none of {len(telling)} layers does", telling[0])
    return there


def in_other_types(layers: Sequence[EngineLayer], wanted: Precision) -> str:
    """A note on layers that compute in another type than was asked for: how many, and the first; "" for none."""
    computing = [layer for layer in layers if layer.computes]
    others = [layer for layer in computing if layer.known & _COMPUTED and wanted not in layer.known]
    if not others:
        return ""
    named = some([f"{layer.name} ({layer.precision})" for layer in others], _NAMED)
    return f"{len(others)} of {len(computing)} layers compute in another type than {wanted}: {named}"


def _other(wanted: str, said: str, layer: EngineLayer) -> BackendError:
    return BackendError(
        f"the engine does not compute in {wanted}: {said}, as {layer.name} ({layer.precision})",
        remedy="Use another precision: this GPU or this release of TensorRT has no faster kernels for the graph.",
    )


@functools.cache
def _profiler_class() -> type[Any]:
    import tensorrt as trt

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        """Collects the milliseconds of each layer, in the order in which they run."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.milliseconds: dict[str, list[float]] = defaultdict(list)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.milliseconds[layer_name].append(ms)

    return Profiler


def profiler() -> Any:
    """A TensorRT profiler. Its ``milliseconds`` map a layer to the time of each run."""
    return _profiler_class()()
