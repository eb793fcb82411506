"""What a job is told: the options of every stage, and the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torchlift.backends import CompileOptions
from torchlift.convert.calibration import CalibrationOptions
from torchlift.datasets import ReadOptions
from torchlift.errors import InputError
from torchlift.evidence import Gate
from torchlift.machine import HERE, RunOn
from torchlift.prove.verify import VerifyOptions
from torchlift.stages.bench import BenchOptions
from torchlift.stages.convert import ConvertOptions
from torchlift.stages.plan import BuildOptions
from torchlift.stages.samples import train_split


@dataclass(frozen=True)
class DataOptions:
    """The data that variants are scored on: a path, and what of it to read."""

    path: Path | None = None
    read: ReadOptions = field(default_factory=ReadOptions)


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
        """How to calibrate, with the samples found: ``path`` is None where there are none, ``read`` limits them."""
        asked, data = self.convert.calibration, self.data
        if asked.path is not None:
            path: Path | None = asked.path
            split = None if asked.read.split else train_split(asked.path, asked.read, "")
        else:
            split = train_split(data.path, replace(data.read, split="", limit=None), data.read.split)
            path = data.path if split else None
        read = split or asked.read
        limit = min(read.limit or asked.samples, asked.samples)
        return replace(asked, path=path, read=replace(read, limit=limit))


def gate_without_data(gate: Gate) -> InputError:
    asked = str(gate) or f"a confidence of {gate.interval:g}%"
    return InputError(
        f"{asked} cannot be held without data",
        remedy="Give `data=`, a data set of the model's task, or leave `within=` and `confidence=` out.",
    )
