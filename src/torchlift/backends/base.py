"""The contract of a runtime: is it here, make a variant for it, open the variant, run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

import numpy as np

from torchlift.backends.turns import Turns
from torchlift.errors import BackendError, BackendUnavailableError, TorchliftError
from torchlift.forms import Recipe
from torchlift.machine import HERE, Availability, RunOn, gpus
from torchlift.manifest import Precision
from torchlift.progress import SILENT, Progress
from torchlift.signature import Axis, Profile, Signature

Arrays = Mapping[str, np.ndarray]

Held = TypeVar("Held")


@dataclass(frozen=True)
class SessionOptions:
    """A session on a GPU is pinned to the device of ``on``; with ``cuda_graph`` it records each shape once and replays
    the record, of the last ``graphs`` shapes.
    """

    on: RunOn = HERE
    cuda_graph: bool = False
    graphs: int = 8

    @property
    def records(self) -> int:
        """How many shapes a session keeps a record of; 0 where it records none."""
        return self.graphs if self.cuda_graph else 0


@dataclass(frozen=True)
class CompileOptions:
    """What a runtime that compiles ahead of time is told; others heed none of it.

    ``profiles`` are the ranges to optimise for, one after the other; without any there are two, one of single samples
    and one of the whole ranges.
    ``workspace`` bounds the scratch memory, in bytes. ``plugins`` are libraries with operators of the user's own.
    ``version_compatible`` engines load in later releases too, ``hardware_compatible`` ones on other GPUs; a
    ``stripped`` one has no weights and takes them from the graph when it is opened.
    """

    profiles: tuple[Profile, ...] = ()
    workspace: int | None = None
    plugins: tuple[Path, ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False
    stripped: bool = False


@dataclass(frozen=True)
class Compilation:
    """One build by such a runtime: what it computes in, the ranges of the axes by profile (one at least where there are
    axes), and where what it learns about kernels is kept between builds.
    """

    recipe: str = "fp32"
    profiles: tuple[tuple[Axis, ...], ...] = ()
    options: CompileOptions = field(default_factory=CompileOptions)
    timing_cache: Path | None = None
    progress: Progress = SILENT


@dataclass(frozen=True)
class LayerTime:
    """What one layer of a runtime costs: ``name`` and ``operator`` as the runtime has them, ``nodes`` of the ONNX graph
    that it computes (none where the runtime does not say), ``precision`` of what it writes (fp32, fp16, bf16, int8, or
    the runtime's own word), ``seconds`` a run on average, by the ``device`` that ran it.
    """

    name: str
    operator: str
    nodes: tuple[str, ...]
    precision: str
    seconds: float
    device: str


Call = Callable[[], float | None]
"""Runs something to its end; returns the seconds that it took by the device's own clock, None where it has none."""


class Session(ABC):
    """A variant loaded by its backend, ready to run. ``runtime`` names what really runs: backend, version, device.

    Any number of threads may share a session: each :meth:`run` answers its own inputs. Threads take turns, unless the
    session is ``reentrant``. :meth:`close` may be called meanwhile.
    """

    reentrant: ClassVar[bool] = False
    """Whether several threads may be in ``_run`` and ``_prepare`` at once. :meth:`close` then waits for none of them:
    each must keep what it uses, as :meth:`_kept` gives it.
    """

    on_device: ClassVar[bool] = False
    """Whether inputs and outputs lie in memory of a device, so that a call can do with or without copies."""

    records: int = 0
    """How many shapes it keeps a record of, where it records each in its first run: give it no more."""

    def __init__(self, signature: Signature, runtime: str) -> None:
        self.signature = signature
        self.runtime = runtime
        self._turns: AbstractContextManager[None] = nullcontext() if self.reentrant else Turns()
        self._closed = False

    def covers(self, sizes: Mapping[str, int]) -> bool:
        """Whether it runs axes of these sizes, of those that the signature admits."""
        return True

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Input name -> array to output name -> array. Raises SignatureError for inputs that do not fit, BackendError
        where the runtime fails at them, or the session is closed.
        """
        self.signature.check(feeds)
        with self._turns:
            self._require_open()
            try:
                return self._run(feeds)
            except Exception as error:
                raise self._failed(error) from error

    def run_on_device(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """As :meth:`run`, of tensors that lie on the session's device (DLPack or ``__cuda_array_interface__``: torch,
        CuPy); the outputs stay there and have DLPack. They hold until the next call of any method, by any thread:
        threads that share the session need a lock of their own, held until the outputs are read or copied.

        Returns before the device is done: pass the next inputs from the same stream, or synchronize before the next
        call. Raises BackendError where the session has no such device or is closed, SignatureError for tensors that do
        not fit; their values are not compared with the bounds.
        """
        with self._turns:
            self._require_open()
            return self._run_on_device(tensors)

    def _run_on_device(self, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        raise BackendError(
            f"{self.runtime} takes no tensors on a device", remedy="Pass arrays of NumPy to run(), which copies them."
        )

    def specialised(self) -> tuple[Mapping[str, int], ...]:
        """Sizes of the axes that it has kernels of their own for, which prove nothing until they run; none where all
        sizes run alike.
        """
        return ()

    def fits(self, feeds: Arrays) -> bool:
        """Whether it runs inputs of these sizes. Raises SignatureError for inputs that the signature does not admit."""
        return self.covers(self.signature.check(feeds))

    def prepare(self, feeds: Arrays, *, copies: bool = False) -> Call:
        """A call that runs ``feeds`` again and again, for timing: without copying them in or the outputs out, unless
        ``copies``, which asks a session on a device for what a caller with arrays on the host pays.

        Inputs that do not lie in C order are copied once, before. The call is for one thread at a time; others may run
        the session meanwhile. It raises BackendError where the runtime fails, and once the session is closed.
        """
        self.signature.check(feeds)
        with self._turns:
            self._require_open()
            try:
                prepared = self._prepare_copies(feeds) if copies else self._prepare(feeds)
            except Exception as error:
                raise self._failed(error) from error

        def call() -> float | None:
            with self._turns:
                self._require_open()
                try:
                    return prepared()
                except Exception as error:
                    raise self._failed(error) from error

        return call

    @abstractmethod
    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]: ...

    @abstractmethod
    def _prepare(self, feeds: Arrays) -> Call: ...

    def _prepare_copies(self, feeds: Arrays) -> Call:
        def call() -> None:
            self._run(feeds)

        return call

    def close(self) -> None:
        """Free what the runtime holds. A call that is under way ends first, or keeps what it uses until it ends; one
        that waits for its turn raises BackendError, as any later one does. To close again does nothing.
        """
        self._closed = True
        with self._turns:
            self._close()

    def _close(self) -> None:  # noqa: B027
        """Let go of what the runtime holds; may be done again."""

    def _failed(self, error: Exception) -> TorchliftError:
        """What is raised where a run ends in ``error``, which is of a runtime's own kind, or ours already."""
        if isinstance(error, TorchliftError):
            return error
        return BackendError(
            f"{self.runtime} cannot run this: {str(error).strip() or type(error).__name__}",
            remedy="Give inputs that the network takes, for example no index beyond its table. If it runs none, verify "
            "the variant: torchlift verify.",
        )

    def _require_open(self) -> None:
        if self._closed:
            raise self._is_closed()

    def _kept(self, held: Held | None) -> Held:
        """What a call uses of the runtime. Raises BackendError where :meth:`_close` has put None in its place."""
        if held is None:
            raise self._is_closed()
        return held

    def _is_closed(self) -> BackendError:
        return BackendError(f"the session of {self.runtime} is closed", remedy="Open it again.")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(ABC):
    """One runtime. Importing the module of a backend must not import the runtime."""

    name: ClassVar[str]
    recipes: ClassVar[Mapping[str, Recipe]]
    """What the backend can be asked for, by name; whether this machine runs it is :meth:`supports`."""

    suffix: ClassVar[str] = ".onnx"
    """How the name of a file ends that it opens. Runtimes look at the content instead, and read much else."""

    asked_for: ClassVar[bool] = False
    """Whether it makes variants only where the backend itself is named, since they need what a target may lack."""

    compiles: ClassVar[bool] = False
    """Whether it compiles ahead of time: what it makes depends on the Compilation, and fits one device."""

    needs: ClassVar[str] = ""
    """The distribution that the target must have besides what torchlift itself needs there; empty where it is part of
    what is installed to serve.
    """

    opens_graphs: ClassVar[bool] = False
    """Whether it opens a graph of the bundle as it is, and builds nothing."""

    replays: ClassVar[bool] = False
    """Whether its sessions on a GPU heed ``SessionOptions.cuda_graph``."""

    for_gpus: ClassVar[bool] = False
    """Whether it runs on NVIDIA GPUs only."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions of the recipes."""
        return tuple(dict.fromkeys(recipe.precision for recipe in self.recipes.values()))

    def recipe(self, name: str) -> Recipe:
        """The recipe of that name. Raises BackendError where the backend has none."""
        if name not in self.recipes:
            raise BackendError(
                f"{self.name} has no recipe {name!r}", remedy=f"Its recipes are {', '.join(self.recipes)}."
            )
        return self.recipes[name]

    @abstractmethod
    def available(self) -> Availability:
        """Whether the runtime is installed and works here, with the reason and the remedy where not."""

    def supports(self, recipe: str) -> Availability:
        """Whether this machine runs ``recipe``, with the reason where not."""
        ok = recipe in self.recipes
        return Availability(ok, f"{self.name} {'has' if ok else 'has no'} {recipe}")

    def on_gpu(self) -> bool:
        """Whether its sessions run on a GPU here."""
        return self.for_gpus and bool(gpus())

    def require(self) -> None:
        """Raise BackendUnavailableError where the backend is not available."""
        state = self.available()
        if not state.ok:
            raise BackendUnavailableError(
                f"the backend {self.name} cannot be used: {state.detail}", remedy=state.remedy
            )

    def require_kind(self, model: Path) -> None:
        """Raise BackendError for a file of another kind than the backend builds and opens."""
        if model.suffix != self.suffix:
            raise BackendError(
                f"{self.name} opens no {model.name}, only files that end in {self.suffix}",
                remedy="Do not use this bundle; ship the model again.",
            )

    @abstractmethod
    def version(self) -> str:
        """Name and release, for example ``onnxruntime 1.31.1``, without importing the runtime; of one that is tied to a
        device also that, since what is found or built holds for it alone.
        """

    @abstractmethod
    def build(self, source: Path, folder: Path, signature: Signature, compilation: Compilation | None = None) -> str:
        """Make what the backend opens from the ONNX file ``source``, in ``folder``; returns the name of the file to
        open. Raises BackendError.
        """

    @abstractmethod
    def open(
        self, model: Path, signature: Signature, recipe: str = "fp32", options: SessionOptions | None = None
    ) -> Session:
        """Load a built file. Raises BackendError, ProviderError where another provider would run it."""

    def layers(
        self,
        model: Path,
        signature: Signature,
        feeds: Arrays,
        *,
        recipe: str = "fp32",
        source: Path | None = None,
        options: SessionOptions | None = None,
        runs: int = 10,
    ) -> list[LayerTime]:
        """What each layer of a built file costs on ``feeds``, in the order in which they run, over ``runs`` runs after
        one that does not count. Measuring each layer slows them all: read the shares, not the sum. ``source`` is the
        ONNX file that it was built from: where a runtime does not tell nodes, or not all, they are found there.

        Raises BackendError where the runtime does not say, SignatureError for inputs that do not fit.
        """
        signature.check(feeds)
        layers = self._layers(model, signature, feeds, recipe, options or SessionOptions(), runs)
        return layers if source is None else self._with_nodes(layers, model, source)

    def _layers(
        self, model: Path, signature: Signature, feeds: Arrays, recipe: str, options: SessionOptions, runs: int
    ) -> list[LayerTime]:
        raise BackendError(f"{self.name} does not report layers", remedy="Ask for the layers of another backend.")

    def _with_nodes(self, layers: list[LayerTime], model: Path, source: Path) -> list[LayerTime]:
        """Layers of a built file with the nodes of its source, where the runtime does not tell them."""
        return layers
