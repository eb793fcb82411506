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
│   └── BakedInError          an input or an axis that the exporter turned into a constant
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


def some(names: Sequence[str], limit: int = 4) -> str:
    """The first names, for a message, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
