"""The forms that a component's FP32 graph is converted to, each made whole or with nodes left in FP32."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx_ir as ir

from torchlift.evidence import KeptNode
from torchlift.graph.edit import save_model
from torchlift.graph.half import ToHalf, half_candidates
from torchlift.graph.quantize import Quantize, QuantizeReport
from torchlift.graph.schemes import SCHEMES, observed, quantizable
from torchlift.graph.units import Unit, name_nodes
from torchlift.measure.ranges import Range, float_tensors, overflowing

Ranges = Mapping[str, tuple[float, float]]
"""Tensor name -> the smallest and the largest value."""

GRAPH = "model.onnx"
SETTINGS = "conversion.json"
"""Beside a converted graph: the ranges that it was made with and the nodes that it keeps, so that it can be made again
in part."""


@dataclass(frozen=True)
class Converted:
    """How many nodes were converted, and which of those that could have been were not, with why."""

    count: int
    kept: tuple[KeptNode, ...]


class Converter(ABC):
    """Writes one form of the graph in the file ``source``. ``candidates`` are the nodes that may be converted: not
    those that cannot be, nor those that ``keep`` names with the reason.
    """

    candidates: tuple[Unit, ...]

    def __init__(self, source: Path, ranges: Ranges, keep: Mapping[str, str]) -> None:
        self.source = source
        self.ranges = ranges
        self.keep = keep

    def write(self, folder: Path, keep: Mapping[str, str] | None = None) -> Converted:
        """Write the graph, with the nodes of ``keep`` left in FP32 besides, and what it was made with."""
        model, kept = _load(self.source), {**self.keep, **(keep or {})}
        converted = self._convert(model, kept)
        save_model(model, folder / GRAPH)
        settings = {"ranges": {name: list(ends) for name, ends in self.ranges.items()}, "keep": kept}
        (folder / SETTINGS).write_text(json.dumps(settings))
        return converted

    @abstractmethod
    def _convert(self, model: ir.Model, keep: Mapping[str, str]) -> Converted: ...


class HalfConverter(Converter):
    """FP16, but for the nodes whose tensors it cannot hold."""

    def __init__(self, source: Path, ranges: Ranges, keep: Mapping[str, str]) -> None:
        super().__init__(source, ranges, keep)
        model = _load(source)
        self._large = overflowing({name: Range(*ends) for name, ends in ranges.items()}, model)
        barred = {*self._large, *keep}
        self.candidates = tuple(unit for unit in half_candidates(model) if unit.node not in barred)

    def _convert(self, model: ir.Model, keep: Mapping[str, str]) -> Converted:
        report = ToHalf({**keep, **self._large})(model).report
        return Converted(len(report.converted), tuple(_kept(k.unit, k.reason) for k in report.kept))


class IntegerConverter(Converter):
    """INT8 by a scheme of :data:`torchlift.graph.schemes.SCHEMES`."""

    def __init__(self, source: Path, ranges: Ranges, keep: Mapping[str, str], scheme: str) -> None:
        super().__init__(source, ranges, keep)
        self._scheme = SCHEMES[scheme]
        self.candidates = tuple(u for u in quantizable(_load(source), self._scheme) if u.node not in keep)

    def report(self) -> QuantizeReport:
        """How each node is quantised, without writing a graph."""
        return Quantize(self._scheme, self.ranges, keep=self.keep)(_load(self.source)).report

    def _convert(self, model: ir.Model, keep: Mapping[str, str]) -> Converted:
        report = Quantize(self._scheme, self.ranges, keep=keep)(model).report
        kept = tuple(_kept(unit, keep.get(unit.node, self._refusal(unit))) for unit in report.kept)
        return Converted(len(report.quantized), kept)

    def _refusal(self, unit: Unit) -> str:
        if unit.operator not in self._scheme.operators:
            return f"{self._scheme.name} has no {unit.operator}"
        return (
            "it reads the input itself, where integers lose most and gain least"
            if unit.operator == "Conv"
            else ("it has no form in integers")
        )


def _load(source: Path) -> ir.Model:
    model = ir.load(source)
    name_nodes(model)
    return model


def _kept(unit: Unit, reason: str) -> KeptNode:
    return KeptNode(unit.node, unit.operator, unit.module, reason)


@dataclass(frozen=True)
class Form:
    """How a form is made: by which converter, and of which tensors of the source it must know the ranges;
    ``calibrated`` where those are refined by a calibrator, and so need real samples.
    """

    converter: Callable[[Path, Ranges, Mapping[str, str]], Converter]
    tensors: Callable[[Path], list[str]]
    calibrated: bool


def _quantized(source: Path, scheme: str) -> list[str]:
    return observed(_load(source), SCHEMES[scheme])


FORMS: dict[str, Form] = {
    "fp16": Form(HalfConverter, float_tensors, calibrated=False),
    **{
        name: Form(
            partial(IntegerConverter, scheme=name), partial(_quantized, scheme=name), calibrated=name != "int8-dynamic"
        )
        for name in ("int8-u8s8", "int8-s8s8", "int8-dynamic")
    },
}
"""Form -> how it is made from the FP32 graph."""


def converter_of(form: str, source: Path, folder: Path) -> Converter:
    """The converter that made the graph in ``folder``, with its ranges and the nodes that it keeps."""
    settings = json.loads((folder / SETTINGS).read_text())
    ranges = {name: (low, high) for name, (low, high) in settings["ranges"].items()}
    return FORMS[form].converter(source, ranges, settings["keep"])
