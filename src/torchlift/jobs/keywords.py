"""The plain keywords of jobs, and the options that they become. The command line and the functions share them."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from torchlift.backends import CompileOptions
from torchlift.convert.calibration import CalibrationOptions, Method
from torchlift.datasets import ReadOptions, SampleData, read_items
from torchlift.declare.answers import Answer
from torchlift.declare.inputs import Input
from torchlift.declare.module import Sample
from torchlift.errors import InputError
from torchlift.evidence import Gate, Objective, Tolerance
from torchlift.jobs.options import DataOptions
from torchlift.machine import RunOn
from torchlift.manifest import Precision
from torchlift.prove.numerics import TOLERANCES
from torchlift.prove.verify import VerifyOptions
from torchlift.signature import Axis, Profile, TensorSpec
from torchlift.stages import BenchOptions, BuildOptions, ConvertOptions
from torchlift.tasks.own import metrics_of
from torchlift.timing.latency import LatencyOptions

PathLike = str | os.PathLike[str]

AxisRange = Axis | str | tuple[int, int, int]
"""``Axis("batch", 1, 8, 64)``, ``"1..8..64"`` or ``(1, 8, 64)``."""


class SourceKeywords(TypedDict, total=False):
    """How a model is read and exported.

    - ``axes``: the range of an axis, by name: ``{"batch": (1, 8, 64), "text.sequence": "4..16..52"}``, or a list of
      Axis: ``[Axis("height", 64, 224, 512, step=32)]``.
    - ``vocabulary``: a vocab.txt, where none is beside the checkpoint.
    - ``resolution``: another image size than the checkpoint's, in pixels.
    - ``exporter``: what writes the ONNX graphs; None tries one after the other.
    - ``opset``: their opset; by default 20, of torchscript 16.
    - ``seed``: draws the golden samples.
    """

    axes: Mapping[str, AxisRange] | Sequence[Axis]
    vocabulary: PathLike | None
    resolution: int | None
    exporter: Literal["dynamo", "torchscript"] | None
    opset: int | None
    seed: int


class OnKeywords(TypedDict, total=False):
    """What of the machine a job runs on.

    - ``threads``: threads for one call; 0 is every usable core.
    - ``device``: the GPU, by ordinal, of what runs on one.
    """

    threads: int
    device: int


class DataKeywords(TypedDict, total=False):
    """The data to score on.

    - ``data``: the path of a data set, or samples in memory: any iterable of (inputs, target), such as a torch
      DataLoader, which is read once.
    - ``metrics``: what samples in memory are scored by, besides the metrics that ``within`` names: names, functions of
      (outputs, targets), or both by name: ``["top1"]``, ``{"mine": function}``.
    - ``split``: for example ``valid``; by default the first of valid, val, validation, test that is there.
    - ``limit``: at most so many samples, evenly spaced.
    - ``prompts``: a file of prompts for zero-shot classification, one a line.
    - ``strict_data``: a record that cannot be used is an error; else it is skipped and counted.
    - ``trust_pickle``: records may be unpickled, which runs code that is in them.
    """

    data: PathLike | Iterable[Any] | None
    metrics: Sequence[Any] | Mapping[str, Any]
    split: str
    limit: int | None
    prompts: PathLike | None
    strict_data: bool
    trust_pickle: bool


class GateKeywords(TypedDict, total=False):
    """What a variant may lose.

    - ``within``: metric -> the most that may be lost against PyTorch in FP32, for example ``{"recall@1": 0.2}``.
    - ``confidence``: hold the limits at this confidence, in percent: the upper bound of a drop's interval decides. With
      None its estimate does.
    - ``objective``: what the best of those that hold is best in: latency, throughput or size.
    """

    within: Mapping[str, float]
    confidence: float | None
    objective: Objective | None


class BenchKeywords(TypedDict, total=False):
    """What is measured.

    - ``batches``: the sizes of the batch, the first of which decides; by default the least and the optimum.
    - ``sizes``: sizes of other axes, by name; by default their optimum.
    - ``rounds``: interleaved rounds, 2 or more.
    - ``cuda_graph``: on a GPU, measure each variant replaying CUDA graphs too.
    - ``more_devices``: further GPUs, by ordinal, to measure throughput on.
    """

    batches: Sequence[int]
    sizes: Mapping[str, int]
    rounds: int
    cuda_graph: bool
    more_devices: Sequence[int]


class VerifyKeywords(TypedDict, total=False):
    """How far a variant may be from PyTorch.

    - ``tolerances``: precision -> the largest difference as a share of an output's magnitude, or that and the least
      cosine: ``{"bf16": (0.02, 0.999)}``.
    """

    tolerances: Mapping[Precision, Tolerance | float | tuple[float, float]]


class CompileKeywords(TypedDict, total=False):
    """What engines are told.

    - ``profiles``: the ranges of axes that an engine is optimised for: ``["batch=1", "batch=1:8:64"]``.
    - ``workspace``: the most scratch memory, in bytes.
    - ``plugins``: libraries with TensorRT operators of your own; they go into the bundle.
    - ``version_compatible``, ``hardware_compatible``: an engine that later releases, other GPUs load too.
    - ``stripped``: an engine without weights: the graph has them.
    """

    profiles: Sequence[Profile | str]
    workspace: int | None
    plugins: Sequence[PathLike]
    version_compatible: bool
    hardware_compatible: bool
    stripped: bool


class ConvertKeywords(TypedDict, total=False):
    """How graphs are converted.

    - ``calibration``: samples that INT8 finds its ranges on, a path or an iterable as of ``data``; by default the split
      ``train`` of the data to score, or the data in memory themselves.
    - ``calibrator``: how ranges are found: minmax, entropy or percentile.
    - ``calibration_samples``: at most so many.
    - ``keep``: what stays in FP32, as ``component:name`` of a node or of a PyTorch module with all below it.
    - ``evaluations``: graphs that may be tried in the search for what costs the accuracy.
    """

    calibration: PathLike | Iterable[Any] | None
    calibrator: Method
    calibration_samples: int
    keep: Sequence[str]
    evaluations: int


class JobKeywords(
    OnKeywords, DataKeywords, GateKeywords, BenchKeywords, VerifyKeywords, CompileKeywords, ConvertKeywords, total=False
):
    """What a job that makes variants is told.

    - ``backends``: only these; by default all that are here and need no asking.
    - ``precisions``: only these, or single recipes such as int8-dynamic; by default fp32 and bf16, with ``data`` also
      int8.
    """

    backends: Sequence[str]
    precisions: Sequence[str]


class NetworkKeywords(TypedDict, total=False):
    """What a network that is given itself takes and gives; in a file, :func:`torchlift.module` takes the same.

    - ``example``: example inputs: a tensor, a tuple by position, or a dict by name.
    - ``inputs``: what ``forward`` takes, as TensorSpecs: name, dtype, shape with names of axes, bounds.
    - ``outputs``: names of what it returns, or some of its keys.
    - ``preprocess``, ``postprocess``: what an input takes (ImageInput, TextInput), and what an output says (Labels).
    - ``sample``: draws inputs for given sizes of the axes.
    """

    example: Any
    inputs: Sequence[TensorSpec]
    outputs: Sequence[str]
    preprocess: Mapping[str, Input]
    postprocess: Mapping[str, Answer]
    sample: Sample | None


class ExportKeywords(SourceKeywords, NetworkKeywords, total=False):
    """How a model is read and exported."""


class ShipKeywords(ExportKeywords, JobKeywords, total=False):
    """What the main job is told: how the model is read and exported, and all that makes variants."""


def require_known(function: str, given: Mapping[str, Any], *kinds: type) -> None:
    """Raise TypeError, as Python does, for a keyword that none of the ``kinds`` has; the nearest name is told."""
    known = [name for kind in kinds for name in kind.__annotations__]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def job_fields(given: Mapping[str, Any], before: Gate | None = None) -> dict[str, Any]:
    """Keywords as the fields of JobOptions; ``before`` is the gate of the bundle that is there.

    Raises InputError for a value that cannot be.
    """
    read = only(given, strict_data="strict", trust_pickle="trust_pickle")
    prompts = given.get("prompts")
    read |= {"prompts": Path(prompts)} if prompts is not None else {}
    calibration = given.get("calibration")
    calibrated = only(given, calibrator="method", calibration_samples="samples")
    if calibration is not None:
        calibrated |= {"source": _source("calibration", calibration), "read": ReadOptions(**read)}
    converted = only(given, evaluations="evaluations") | {"keep": texts("keep", given.get("keep", ()))}
    return {
        "build": BuildOptions(*(texts(name, given.get(name, ())) for name in ("backends", "precisions"))),
        "data": _data(given, before, ReadOptions(**read, **only(given, split="split", limit="limit"))),
        "convert": ConvertOptions(CalibrationOptions(**calibrated), **converted),
        "verify": VerifyOptions({name: _tolerance(name, value) for name, value in given.get("tolerances", {}).items()}),
        "gate": _gate(given, before),
        "bench": bench_options(given),
        "compile": _compilation(given),
        "on": run_on(given),
    }


def _data(given: Mapping[str, Any], before: Gate | None, read: ReadOptions) -> DataOptions:
    """The data to score on; of an iterable it is read here, once. Raises DataError for one that fails, InputError for
    what does not go with the data.
    """
    data, metrics = given.get("data"), given.get("metrics", ())
    source = None if data is None else _source("data", data)
    if not isinstance(source, SampleData):
        if metrics:
            raise InputError(
                "metrics= is for data in memory" + f", and {source} is a path" * (source is not None),
                remedy="Leave it out: a data set at a path has metrics of its own. Or give `data=` an iterable.",
            )
        return DataOptions(source, read)
    for name in ("split", "prompts"):
        if given.get(name):
            raise InputError(f"`{name}=` is for data at a path, and `data=` is in memory", remedy="Leave it out.")
    within = given.get("within") or (before.within if before else {})
    return DataOptions(source, read, metrics_of(metrics, within))


def _source(keyword: str, given: Any) -> Path | SampleData:
    return Path(given) if isinstance(given, (str, os.PathLike)) else read_items(given, keyword)


def run_on(given: Mapping[str, Any]) -> RunOn:
    """What of the machine a job runs on. Raises InputError for a number that cannot be."""
    return RunOn(**only(given, threads="threads", device="device"))


def bench_options(given: Mapping[str, Any]) -> BenchOptions:
    """What is measured. Raises InputError for a number that cannot be."""
    batches = tuple(given.get("batches", ()))
    for size in batches:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"batches holds {size!r}", remedy="A batch is a whole number of rows, 1 or more.")
    return BenchOptions(
        batches,
        dict(given.get("sizes", {})),
        LatencyOptions(**only(given, rounds="rounds")),
        bool(given.get("cuda_graph", False)),
        tuple(given.get("more_devices", ())),
    )


def axes_of(given: Mapping[str, AxisRange] | Sequence[Axis]) -> dict[str, dict[str, Axis]]:
    """Ranges by ``axis`` or ``component.axis`` as LoadOptions has them. Raises SignatureError for what is no range."""
    found: dict[str, dict[str, Axis]] = {}
    if not isinstance(given, Mapping):
        given = {axis.name: axis for axis in given}
    for path, range_ in given.items():
        component, _, name = path.rpartition(".")
        if isinstance(range_, Axis):
            axis = range_
        elif isinstance(range_, str):
            axis = Axis.parse(name, range_)
        else:
            axis = Axis(name, *range_)
        found.setdefault(component, {})[name] = axis
    return found


def only(given: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """What is given of some keywords, by the names of the fields that they fill."""
    return {field: given[keyword] for keyword, field in names.items() if keyword in given}


def texts(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """The texts of a keyword. Raises InputError for a single string, whose letters would be taken for them."""
    if isinstance(values, str):
        raise InputError(f"{name} is the string {values!r}", remedy=f"Give a list: {name}=[{values!r}].")
    return tuple(values)


def _gate(given: Mapping[str, Any], before: Gate | None) -> Gate | None:
    """What is asked for; what is not stays as it was ``before``. None where nothing is."""
    limits, objective = dict(given.get("within", {})), given.get("objective")
    for metric, limit in limits.items():
        if not isinstance(limit, (int, float)) or not 0 <= limit < math.inf:
            raise InputError(f"within {metric} is {limit!r}", remedy="Give how much may be lost, in the metric's unit.")
    if not (limits or objective or "confidence" in given):
        return None
    before = before or Gate()
    return Gate(limits, objective or before.objective, given.get("confidence", before.confidence))


def _tolerance(precision: str, value: Any) -> Tolerance:
    if precision not in TOLERANCES:
        raise InputError(f"there is no precision {precision!r}", remedy=f"Use one of {', '.join(TOLERANCES)}.")
    if isinstance(value, Tolerance):
        return value
    usual = TOLERANCES[precision]  # type: ignore[index]
    scaled, cosine = value if isinstance(value, tuple) else (value, usual.cosine)
    if not (0 <= scaled <= 1 and -1 <= cosine <= 1):
        raise InputError(f"the tolerance of {precision} is {value!r}", remedy="Give shares such as (0.02, 0.999).")
    return replace(usual, scaled=scaled, cosine=cosine)


def _compilation(given: Mapping[str, Any]) -> CompileOptions:
    names = ("workspace", "version_compatible", "hardware_compatible", "stripped")
    profiles = tuple(Profile.parse(p) if isinstance(p, str) else p for p in given.get("profiles", ()))
    plugins = tuple(Path(library) for library in given.get("plugins", ()))
    return CompileOptions(profiles=profiles, plugins=plugins, **only(given, **{name: name for name in names}))
