"""What a job is told: the options of every stage, and the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torchlift.backends import CompileOptions
from torchlift.convert.calibration import CalibrationOptions
from torchlift.datasets import ReadOptions, SampleData
from torchlift.errors import InputError
from torchlift.evidence import Gate
from torchlift.machine import HERE, RunOn
from torchlift.prove.verify import VerifyOptions
from torchlift.stages.bench import BenchOptions
from torchlift.stages.convert import ConvertOptions
from torchlift.stages.plan import BuildOptions
from torchlift.stages.samples import train_split
from torchlift.tasks import Metric


@dataclass(frozen=True)
class DataOptions:
    """The data that variants are scored on, a path or samples in memory, and what of them to read. ``metrics`` are for
    samples in memory.
    """

    source: Path | SampleData | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    metrics: tuple[Metric, ...] = ()


@dataclass(frozen=True)
class JobOptions:
    """What each stage is told, and what of the machine all of them run on. Without a ``gate``, or limits in it, the
    bundle's own hold, or with data the default.
    """

    build: BuildOptions = field(default_factory=BuildOptions)
    compile: CompileOptions = field(default_factory=CompileOptions)
    data: DataOptions = field(default_factory=DataOptions)
    convert: ConvertOptions = field(default_factory=ConvertOptions)
    verify: VerifyOptions = field(default_factory=VerifyOptions)
    gate: Gate | None = None
    bench: BenchOptions = field(default_factory=BenchOptions)
    on: RunOn = HERE

    def calibration(self) -> CalibrationOptions:
        """How to calibrate, with the samples found: ``source`` is None where there are none, ``read`` limits them."""
        asked, data = self.convert.calibration, self.data
        if asked.source is not None:
            source: Path | SampleData | None = asked.source
            split = None if asked.read.split else train_split(asked.source, asked.read, "")
        else:
            split = train_split(data.source, replace(data.read, split="", limit=None), data.read.split)
            source = data.source if split or isinstance(data.source, SampleData) else None
        read = split or asked.read
        limit = min(read.limit or asked.samples, asked.samples)
        return replace(asked, source=source, read=replace(read, limit=limit))


def gate_without_data(gate: Gate) -> InputError:
    asked = str(gate) or f"a confidence of {gate.interval:g}%"
    return InputError(
        f"{asked} cannot be held without data",
        remedy="Give `data=`, a data set of the model's task, or leave `within=` and `confidence=` out.",
    )
