"""Every error that torchlift raises on purpose; each says what is wrong, with the value, and what to do.

```text
TorchliftError
├── SignatureError            inputs or outputs that do not fit what the component declares
│   ├── BatchTooLargeError    more rows at once than the signature's maximum
│   └── ProfileError          sizes that no optimisation profile of an engine holds
├── SourceError               a model that cannot be read
│   ├── CheckpointError       a file that is missing, truncated or of another model
│   │   └── UnsafeCheckpointError   a pickle that would run code; it did not run
│   └── ModuleSourceError     a `file.py:function` that gives no usable nn.Module
├── ExportError               the exporter failed
│   ├── BakedInError          an input or an axis that the exporter turned into a constant
│   └── ExportMemoryError     the memory does not suffice at a size within the ranges
├── ConversionError           a graph that cannot be converted
├── BundleError               a bundle that cannot be opened
│   ├── ChecksumError         a file that is not what the manifest says
│   └── ManifestVersionError  written by a newer torchlift
├── BackendError              a runtime that failed
│   ├── BackendUnavailableError     not installed or not usable here
│   ├── ProviderError         the runtime that ran is not the one asked for
│   ├── ParserError           a graph that the runtime's parser does not read
│   ├── EngineError           an engine that was not built for this machine, or is not what was built
│   └── DeviceMemoryError     a device that has no more memory
├── VerificationError         a variant that may not be used
│   └── NoSignalError         goldens against which any comparison would pass
├── GateError                 no variant that was asked for loses as little as it must
├── InputError                an image, a text or a batch that cannot be used
├── DataError                 a data set, a record or a result file that cannot be used
│   ├── MetricError           a metric that the task lacks, or that the data are too few for
│   └── UnsafeDataError       a pickle that would run code; it did not run
└── StorageError              a disk that is full or may not be written
```

Messages and remedies name an argument of Python's in backticks with an equals sign, and with its value where one is
proposed: `calibration=`, `axes=batch=1..4..9`. The command line prints its own options in their place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


class TorchliftError(Exception):
    """Base of all. ``remedy`` is what the user can do, in one sentence."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class SignatureError(TorchliftError):
    """``axis`` is the axis whose size does not fit; empty where it is something else."""

    def __init__(self, message: str, *, remedy: str = "", axis: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.axis = axis


class BatchTooLargeError(SignatureError):
    pass


class ProfileError(SignatureError):
    pass


class SourceError(TorchliftError):
    pass


class CheckpointError(SourceError):
    pass


class UnsafeCheckpointError(CheckpointError):
    pass


class ModuleSourceError(SourceError):
    pass


class ExportError(TorchliftError):
    pass


class BakedInError(ExportError):
    """``axes`` are those that turned constant, where that is known."""

    def __init__(self, message: str, *, remedy: str = "", axes: Sequence[str] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.axes = tuple(axes)


class ExportMemoryError(ExportError):
    pass


class ConversionError(TorchliftError):
    pass


class BundleError(TorchliftError):
    pass


class ChecksumError(BundleError):
    """``path`` is the file's within the bundle."""

    def __init__(self, message: str, *, remedy: str = "", path: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.path = path


class ManifestVersionError(BundleError):
    pass


class BackendError(TorchliftError):
    pass


class BackendUnavailableError(BackendError):
    pass


class ProviderError(BackendError):
    pass


class ParserError(BackendError):
    pass


class EngineError(BackendError):
    pass


class DeviceMemoryError(BackendError):
    pass


class VerificationError(TorchliftError):
    """``variant`` is the name of the variant that may not be used; empty where it is no variant."""

    def __init__(self, message: str, *, remedy: str = "", variant: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.variant = variant


class NoSignalError(VerificationError):
    pass


class GateError(TorchliftError):
    """``components`` are those that FP32 serves, since no variant of them that was asked for holds the gate."""

    def __init__(self, message: str, *, remedy: str = "", components: Sequence[str] = ()) -> None:
        super().__init__(message, remedy=remedy)
        self.components = tuple(components)


class InputError(TorchliftError):
    pass


class DataError(TorchliftError):
    pass


class MetricError(DataError):
    """``metric`` is the name that was asked for."""

    def __init__(self, message: str, *, remedy: str = "", metric: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.metric = metric


class UnsafeDataError(DataError):
    pass


class StorageError(TorchliftError):
    pass


_LOG = re.compile(
    r"Check '.*' failed at |Exception from |FrontEnd API failed|Model wasn't fully converted|While validating |"
    r"Summary:|-- Conversion is failed for|-- .* with a message:|\[ONNX Frontend\] Conversion failed|Node \S+ of type |"
    r"Traceback \(most recent call last\)|File \""
)
"""How lines of a log begin that say where something failed, and not what."""

_LONGEST = 400
"""Characters of a runtime's own words that a table shows."""


def telling(text: str) -> str:
    """The line of a runtime's error that says what failed, with what stands before its log; cut where it is long.

    For example ``net cannot run: Exception from infer.cpp:224:``, ``Check 'i < n' failed at scatter.cpp:11:``, ``index
    58 is beyond the table`` become ``net cannot run: index 58 is beyond the table``.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    log = _LOG.search(lines[0])
    said = lines[0]
    if log is not None and len(lines) > 1:
        told = [line for line in lines[1:] if not _LOG.match(line)] or [lines[0][log.start() :]]
        said = f"{lines[0][: log.start()]}{told[-1].removeprefix('-- ')}"
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."


def some(names: Sequence[str], limit: int = 4) -> str:
    """The first names, for a message, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
