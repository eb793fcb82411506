"""The forms that a component's FP32 graph is converted to, each made whole or with nodes left in FP32."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from torchlift.backends import forms
from torchlift.convert.calibration import CalibrationOptions, calibrate
from torchlift.convert.nncf import quantize_with_nncf
from torchlift.convert.ranges import Feeds, Range, float_tensors, overflowing, ranges_of
from torchlift.errors import ConversionError
from torchlift.evidence import KeptNode, RangeMethod
from torchlift.forms import Form, Way
from torchlift.graph.files import load_model, save_model
from torchlift.graph.half import ToHalf, half_candidates, require_half
from torchlift.graph.learnt import learnt_ranges
from torchlift.graph.quantize import Quantize, QuantizeReport
from torchlift.graph.scales import load_scales
from torchlift.graph.schemes import SCHEMES, observed, quantizable
from torchlift.graph.units import Unit, name_nodes
from torchlift.machine import HERE, RunOn
from torchlift.progress import Progress

Ranges = Mapping[str, tuple[float, float]]
"""Tensor name -> the smallest and the largest value."""

Draw = Callable[[], Feeds]
"""Gets samples, once they are needed."""

GRAPH = "model.onnx"
SETTINGS = "conversion.json"
"""Beside a converted graph: the ranges that it was made with and the nodes that it keeps, so that it can be made again
in part."""


@dataclass(frozen=True)
class Converted:
    """How many nodes were converted, and which of those that compute were not, with why; ``ranges`` is how they were
    found on samples, None where none were needed; ``percentile`` belongs to the method of that name.
    """

    count: int
    kept: tuple[KeptNode, ...]
    ranges: RangeMethod | None = None
    percentile: float | None = None


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

    def _is_whole(self, keep: Mapping[str, str]) -> bool:
        """Whether no more is kept than belongs to the form: parts may be as small as a search likes."""
        return keep.keys() <= self.keep.keys()

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
        if self._is_whole(keep):
            require_half(report)
        return Converted(len(report.converted), tuple(_kept(k.unit, k.reason) for k in report.kept))


class IntegerConverter(Converter):
    """INT8 by a scheme of :data:`torchlift.graph.schemes.SCHEMES`, at the scales that the network was trained with
    where it was. A node of which no range is known stays FP32.
    """

    def __init__(self, source: Path, ranges: Ranges, keep: Mapping[str, str], scheme: str) -> None:
        super().__init__(source, ranges, keep)
        self._scheme = SCHEMES[scheme]
        model = _load(source)
        learnt = learnt_ranges(load_scales(source.parent), model, self._scheme)
        self._known, self._weights = {**ranges, **learnt.ranges}, learnt.weights
        self._unknown = self._without_range(model)
        barred = {*keep, *self._unknown}
        self.candidates = tuple(u for u in quantizable(model, self._scheme) if u.node not in barred)

    def _without_range(self, model: ir.Model) -> dict[str, str]:
        nodes = quantizable(model, self._scheme)
        everything = {unit.node for unit in nodes}
        reason = "neither training nor calibration gave a range"
        return {
            unit.node: reason
            for unit in nodes
            if not self._known.keys() >= {*observed(model, self._scheme, everything - {unit.node})}
        }

    def report(self) -> QuantizeReport:
        """How each node is quantised, without writing a graph."""
        return self._quantize(_load(self.source), {**self._unknown, **self.keep})

    def _convert(self, model: ir.Model, keep: Mapping[str, str]) -> Converted:
        whole, keep = self._is_whole(keep), {**self._unknown, **keep}
        report = self._quantize(model, keep)
        if whole and not report.quantized:
            raise ConversionError(
                f"no node would compute in integers, of {len(report.kept)} that could",
                remedy="Such a variant is FP32 in all but name: keep fewer nodes, or use FP32.",
            )
        kept = tuple(_kept(unit, keep.get(unit.node, self._refusal(unit))) for unit in report.kept)
        return Converted(len(report.quantized), kept)

    def _quantize(self, model: ir.Model, keep: Mapping[str, str]) -> QuantizeReport:
        weights = {node: amax for node, amax in self._weights.items() if node not in keep}
        return Quantize(self._scheme, self._known, keep=keep, learnt=weights)(model).report

    def _refusal(self, unit: Unit) -> str:
        if unit.operator not in self._scheme.operators:
            return f"{self._scheme.name} has no {unit.operator}"
        if unit.operator == "Conv":
            return "it reads the input itself, where integers lose most and gain least"
        return "it has no form in integers"


class MixedConverter(IntegerConverter):
    """INT8, and FP16 for what that leaves in floating point; counts both. A node that is kept stays FP32."""

    def _convert(self, model: ir.Model, keep: Mapping[str, str]) -> Converted:
        super()._convert(model, keep)
        names = {node.name for node in model.graph}
        report = ToHalf({name: reason for name, reason in keep.items() if name in names})(model).report
        return Converted(len(report.converted), tuple(_kept(k.unit, k.reason) for k in report.kept))


def _load(source: Path) -> ir.Model:
    model = load_model(source)
    name_nodes(model)
    return model


def _kept(unit: Unit, reason: str) -> KeptNode:
    return KeptNode(unit.node, unit.operator, unit.module, reason)


@dataclass(frozen=True)
class FormOptions:
    """How ranges are found, which nodes stay FP32 (with the reason), and what all this runs on."""

    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    keep: Mapping[str, str] = field(default_factory=dict)
    on: RunOn = HERE


@dataclass(frozen=True)
class Maker(ABC):
    """Makes one form from the FP32 graph."""

    form: Form

    @abstractmethod
    def make(
        self, source: Path, folder: Path, samples: Draw | None, options: FormOptions, progress: Progress
    ) -> Converted:
        """Write the graph and all that belongs to it to ``folder``; ``samples`` are drawn only where they are needed,
        and None where a calibrated form has none.

        Raises ConversionError, DataError where samples are needed and not there, BackendUnavailableError where the form
        cannot be made here, and what drawing the samples raises.
        """


class PartMaker(Maker):
    """Makes a form that is converted node by node, so that any part of it can be made."""

    @abstractmethod
    def converter(self, source: Path, ranges: Ranges, keep: Mapping[str, str]) -> Converter:
        """What writes the form, whole or in part, with the ranges and the nodes to keep."""


class Half(PartMaker):
    """FP16, looked up on samples."""

    def make(
        self, source: Path, folder: Path, samples: Draw | None, options: FormOptions, progress: Progress
    ) -> Converted:
        feeds = samples() if samples else []
        ranges = {name: (r.low, r.high) for name, r in _extremes(source, feeds, options, progress).items()}
        return replace(self.converter(source, ranges, options.keep).write(folder), ranges="extremes")

    def converter(self, source: Path, ranges: Ranges, keep: Mapping[str, str]) -> Converter:
        return HalfConverter(source, ranges, keep)


def _extremes(source: Path, feeds: Feeds, options: FormOptions, progress: Progress) -> dict[str, Range]:
    """The range of every float tensor."""
    return ranges_of(source, feeds, float_tensors(source), on=options.on, progress=progress, total=len(feeds))


class Integers(PartMaker):
    """INT8 by one of our schemes; a network whose training quantised its weights alone gets just that. Where the form
    says ``half``, the rest is FP16, but for the nodes whose tensors that cannot hold, which stay FP32 whole.
    """

    def make(
        self, source: Path, folder: Path, samples: Draw | None, options: FormOptions, progress: Progress
    ) -> Converted:
        if self.form.half and samples is not None:
            large = overflowing(_extremes(source, samples(), options, progress), _load(source))
            options = replace(options, keep={**large, **options.keep})
        model, scheme, scales = _load(source), SCHEMES[self._scheme_of(source)], load_scales(source.parent)
        learnt = learnt_ranges(scales, model, scheme).ranges
        names = [name for name in observed(model, scheme, options.keep) if name not in learnt]
        if not names or samples is None:
            return self.converter(source, {}, options.keep).write(folder)
        ranges = calibrate(source, names, samples(), options.calibration, progress=progress, on=options.on)
        found = options.calibration
        return replace(
            self.converter(source, ranges, options.keep).write(folder),
            ranges=found.method,
            percentile=found.percentile if found.method == "percentile" else None,
        )

    def converter(self, source: Path, ranges: Ranges, keep: Mapping[str, str]) -> Converter:
        kind = MixedConverter if self.form.half else IntegerConverter
        return kind(source, ranges, keep, self._scheme_of(source))

    def _scheme_of(self, source: Path) -> str:
        scales = load_scales(source.parent).values()
        weights_only = bool(scales) and all(known.input is None and known.output is None for known in scales)
        return "int8-weights" if weights_only else self.form.scheme


class Nncf(Maker):
    """INT8 by Intel's NNCF: OpenVINO's own format, which cannot be made in part."""

    def make(
        self, source: Path, folder: Path, samples: Draw | None, options: FormOptions, progress: Progress
    ) -> Converted:
        self.form.require()
        quantize_with_nncf(source, folder, samples() if samples else [], keep=options.keep, progress=progress)
        return Converted(0, (), ranges="nncf")


_MAKERS: dict[Way, type[Maker]] = {"half": Half, "integers": Integers, "nncf": Nncf}


def maker_of(form: str) -> Maker | None:
    """What makes the form of that name here; None for what the export makes, and for a form that no backend has."""
    found = forms().get(form)
    return None if found is None or found.exported else _MAKERS[found.made_by](found)


def made_in_parts(form: str) -> bool:
    """Whether any part of the form can be made, so that its nodes can be searched for what costs the accuracy."""
    return isinstance(maker_of(form), PartMaker)


def converter_of(form: str, source: Path, folder: Path) -> Converter | None:
    """The converter that made the graph in ``folder``, with its ranges and the nodes that it keeps; None for a form
    that cannot be made in part.
    """
    maker = maker_of(form)
    if not isinstance(maker, PartMaker):
        return None
    settings = json.loads((folder / SETTINGS).read_text())
    ranges = {name: (low, high) for name, (low, high) in settings["ranges"].items()}
    return maker.converter(source, ranges, settings["keep"])
