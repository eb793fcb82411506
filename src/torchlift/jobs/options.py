"""What a job is told: the options of every stage, and the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from torchlift.backends import CompileOptions
from torchlift.datasets import ReadOptions
from torchlift.errors import InputError
from torchlift.evidence import Gate
from torchlift.prove.verify import VerifyOptions
from torchlift.stages.bench import BenchOptions
from torchlift.stages.convert import ConvertOptions
from torchlift.stages.plan import BuildOptions
from torchlift.stages.samples import CalibrationData, train_split


@dataclass(frozen=True)
class DataOptions:
    """The data that variants are scored on, and the data that they are calibrated on: a path, and what of it to read.

    Without ``calibration`` the split ``train`` of the data to score is taken, where there is one.
    """

    path: Path | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    calibration: CalibrationData | None = None


@dataclass(frozen=True)
class JobOptions:
    """What each stage is told. Without a ``gate``, or limits in it, the bundle's own hold, or with data the default."""

    build: BuildOptions = field(default_factory=BuildOptions)
    compile: CompileOptions = field(default_factory=CompileOptions)
    data: DataOptions = field(default_factory=DataOptions)
    convert: ConvertOptions = field(default_factory=ConvertOptions)
    verify: VerifyOptions = field(default_factory=VerifyOptions)
    gate: Gate | None = None
    bench: BenchOptions = field(default_factory=BenchOptions)

    def calibration(self) -> CalibrationData | None:
        """What to calibrate on, and how much of it; None where there is nothing."""
        data, given, limit = self.data, self.data.calibration, self.convert.calibration.samples
        if given is not None:
            found = train_split(given.path, given.read, "") if not given.read.split else None
            found = found or given
        else:
            found = train_split(data.path, replace(data.read, split="", limit=None), data.read.split)
        if found is None:
            return None
        return replace(found, read=replace(found.read, limit=min(found.read.limit or limit, limit)))


def gate_without_data(gate: Gate) -> InputError:
    return InputError(
        f"{gate} cannot be held without data",
        remedy="Give --data with a data set of the model's task, or leave --within out.",
    )
