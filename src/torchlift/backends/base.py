"""The contract of a runtime: is it here, make a variant for it, open the variant, run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar

import numpy as np

from torchlift.errors import BackendUnavailableError
from torchlift.machine import usable_cores
from torchlift.manifest import Precision, precision_of
from torchlift.signature import Signature

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Availability:
    """Whether a backend works here. ``detail`` says which release and device, or why not; ``remedy`` what to do."""

    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class SessionOptions:
    """``threads`` work on one call; 0 is every usable core."""

    threads: int = 0

    @property
    def cores(self) -> int:
        return self.threads or usable_cores()


class Session(ABC):
    """A variant loaded by its backend, ready to run. ``runtime`` names what really runs: backend, version, device."""

    def __init__(self, signature: Signature, runtime: str) -> None:
        self.signature = signature
        self.runtime = runtime

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Input name -> array to output name -> array. Raises SignatureError for inputs that do not fit."""
        self.signature.check(feeds)
        return self._run(feeds)

    def prepare(self, feeds: Arrays) -> Callable[[], None]:
        """A call that runs ``feeds`` again and again without copying them in or the outputs out, for timing.

        Inputs that do not lie in C order are copied once, before.
        """
        self.signature.check(feeds)
        return self._prepare(feeds)

    @abstractmethod
    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _prepare(self, feeds: Arrays) -> Callable[[], None]: ...

    def close(self) -> None:  # noqa: B027
        """Free what the runtime holds. The session may not be used after."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(ABC):
    """One runtime. Importing the module of a backend must not import the runtime."""

    name: ClassVar[str]
    recipes: ClassVar[Mapping[str, str]]
    """What the backend can be asked for, a precision or one with a method (int8-dynamic), and the form of the graph
    that each is built from; whether this machine runs it is :meth:`supports`.
    """

    on_request: ClassVar[frozenset[str]] = frozenset()
    """Recipes that are made only when they are named: nobody gains speed by them."""

    emulates: ClassVar[frozenset[str]] = frozenset()
    """Recipes whose FP16 it computes in FP32 in between, so that what that cannot hold does not show."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions of the recipes."""
        return tuple(dict.fromkeys(precision_of(recipe) for recipe in self.recipes))

    @abstractmethod
    def available(self) -> Availability:
        """Whether the runtime is installed and works here, with the reason and the remedy where not."""

    def supports(self, recipe: str) -> Availability:
        """Whether this machine runs ``recipe``, with the reason where not."""
        ok = recipe in self.recipes
        return Availability(ok, f"{self.name} {'has' if ok else 'has no'} {recipe}")

    def require(self) -> None:
        """Raise BackendUnavailableError where the backend is not available."""
        state = self.available()
        if not state.ok:
            raise BackendUnavailableError(
                f"the backend {self.name} cannot be used: {state.detail}", remedy=state.remedy
            )

    @abstractmethod
    def version(self) -> str:
        """Name and release, for example ``onnxruntime 1.31.1``, without importing the runtime."""

    def artifact(self, recipe: str) -> str:
        """The recipe whose files serve ``recipe``: variants that only differ at load time share files."""
        return recipe

    @abstractmethod
    def build(self, source: Path, folder: Path, signature: Signature) -> str:
        """Make what the backend opens from the ONNX file ``source``, in ``folder``; returns the name of the file to
        open. Raises BackendError.
        """

    @abstractmethod
    def open(
        self, model: Path, signature: Signature, recipe: str = "fp32", options: SessionOptions | None = None
    ) -> Session:
        """Load a built file. Raises BackendError, ProviderError where another provider would run it."""
