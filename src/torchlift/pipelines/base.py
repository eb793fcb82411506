"""What every pipeline does: pick the variant of each component that may serve here, and open it once it is needed."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import ClassVar, Concatenate, ParamSpec, TypeVar

import numpy as np

from torchlift.backends import Session, SessionOptions, backend
from torchlift.backends.opening import open_variant
from torchlift.backends.turns import GPUS
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, BundleError, StorageError, VerificationError
from torchlift.machine import HERE, RunOn
from torchlift.manifest import Variant, read_manifest
from torchlift.messages import failure_text
from torchlift.pipelines.batches import whole_size
from torchlift.pipelines.columns import Prepared
from torchlift.pipelines.prepare import Cut, Preparer, preparers
from torchlift.pipelines.run import Batching, Loader, Run, run_each, run_prepared, run_rows
from torchlift.progress import Progress
from torchlift.prove.verify import VerifyOptions, proven_here, refused_here, require_built, verify_variant
from torchlift.staging import locked

Opened = TypeVar("Opened", bound="Pipeline")
Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class OpenOptions:
    """``variants`` picks others than the chosen: component -> variant name, or its ``backend/precision``. ``on`` says
    how many threads work on one call, and on which GPU what runs on one does.
    """

    variants: Mapping[str, str] = field(default_factory=dict)
    on: RunOn = HERE


class Pipeline:
    """A bundle opened for use. Sessions are opened when first needed, and closed by :meth:`close` or ``with``.

    A session in ``sessions`` serves its component instead of a variant; it is not verified, and stays open.

    Any number of threads may share a pipeline: each gets the answers to its own inputs, and a component that several of
    them need first is verified and opened once. ``progress`` is told by the thread that calls. Closed, the pipeline
    raises BundleError, also in calls that are under way (:func:`ends_when_closed`).
    """

    together: ClassVar[bool] = False
    """Whether rows that are given at once are one batch, where the signature admits as many."""

    def __init__(
        self,
        bundle: Bundle,
        options: OpenOptions,
        progress: Progress,
        sessions: Mapping[str, Session] | None = None,
    ) -> None:
        self.bundle = bundle
        self.options = options
        self._progress = progress
        self._injected = dict(sessions or {})
        self._sessions: dict[str, Session] = {}
        self._opening = threading.RLock()
        """Held while a session is opened or all are closed, not while one runs."""

        self._preparers = preparers(bundle)
        self._batchings: dict[tuple[str, int | None], Batching] = {}
        self._loader = Loader()
        self._closed = False
        for component in self._injected:
            bundle.manifest.component(component)
        for component in options.variants:
            self.variant(component)
        self._set_up()

    def _set_up(self) -> None:
        """Take from the bundle what a kind of pipeline needs. Raises BundleError where it is not there."""

    def variant(self, component: str) -> Variant:
        """The variant that serves a component. Raises BundleError where there is none."""
        manifest = self.bundle.manifest
        manifest.component(component)
        asked = self.options.variants.get(component)
        if asked:
            return manifest.variant(asked if asked.startswith(f"{component}/") else f"{component}/{asked}")
        if component not in manifest.choices:
            raise BundleError(
                f"no variant of {component} has been chosen",
                remedy=f"Run `torchlift build {self.bundle.path}` on this machine, or name one with `variants=`.",
            )
        return manifest.variant(manifest.choices[component].variant)

    def session(self, component: str) -> Session:
        """The open session of a component; what was not verified on this machine is verified first.

        Raises BundleError where the pipeline is closed, or the bundle on disk is another by now.
        """
        self._require_open()
        found = self._injected.get(component, self._sessions.get(component))
        return self._opened(component) if found is None else found

    def _opened(self, component: str) -> Session:
        """The session of a component, which is opened unless another thread did so meanwhile."""
        with self._opening:
            self._require_open()
            if component not in self._sessions:
                variant = self.variant(component)
                self._require_unchanged(variant)
                variant = require_verified(self.bundle, variant, self.options, self._progress)
                options = SessionOptions(self.options.on, cuda_graph=self._graphed(variant))
                with GPUS:  # no session records a CUDA graph meanwhile
                    self._sessions[component] = open_variant(self.bundle, variant, options)
                self._require_open()  # close() waits, and closes what was opened
            return self._sessions[component]

    def preparer(self, component: str) -> Preparer:
        """What prepares the inputs of a component. Raises BundleError where there is none."""
        self.bundle.manifest.component(component)
        return self._preparers[component]

    def run(self, component: str, prepared: Prepared, size: int | None = None) -> dict[str, np.ndarray]:
        """The outputs of a component for prepared rows, in their order, in batches of at most ``size`` rows."""
        session, batching = self._ready(component, size)
        return run_prepared(session, prepared, batching, self._loader)

    def run_rows(self, component: str, prepared: Prepared, size: int | None = None) -> dict[str, list[np.ndarray]]:
        """As :meth:`run`, but a list with an array a row, without what an output has at padding."""
        session, batching = self._ready(component, size)
        return run_rows(session, prepared, batching, self._loader)

    def run_each(
        self, component: str, prepared: Prepared, size: int | None = None
    ) -> Iterator[tuple[Run, dict[str, np.ndarray]]]:
        """As :meth:`run`, but run by run, for outputs that are not kept: :func:`torchlift.pipelines.run.run_each`."""
        session, batching = self._ready(component, size)
        return run_each(session, prepared, batching, self._loader)

    def _ready(self, component: str, size: int | None) -> tuple[Session, Batching]:
        """The session of a component, and which rows share a run of it."""
        session, size = self.session(component), None if size is None else whole_size(size)
        batching = self._batchings.get((component, size))
        if batching is None:  # several threads may make one at once: they are alike
            signature = self.bundle.manifest.component(component).signature
            batching = self._batchings[component, size] = Batching(session, signature, size, together=self.together)
        return session, batching

    def _note_cut(self, cut: Cut | None) -> None:
        """Tell which texts were cut."""
        if cut is not None:
            self._progress.note(
                f"{cut.texts} of {cut.of} texts were cut to {cut.tokens} tokens, the first is text {cut.first}"
            )

    def _require_open(self) -> None:
        if self._closed:
            raise BundleError("the pipeline is closed", remedy=f"Open {self.bundle.path} again.")

    def _graphed(self, variant: Variant) -> bool:
        """Whether a proven variant replays CUDA graphs: where it was chosen so, and is proven so."""
        choice = self.bundle.manifest.choices.get(variant.component)
        if choice is None or choice.variant != variant.name or not choice.cuda_graph:
            return False
        proven = variant.verification is not None and variant.verification.replays
        if not proven:
            self._progress.note(f"{variant.name} runs without CUDA graphs: its verification here replayed none")
        return proven

    def _require_unchanged(self, variant: Variant) -> None:
        opened = self.bundle.manifest
        paths = (*variant.files, opened.component(variant.component).goldens)
        now = read_manifest(self.bundle.path).files
        if any(now.get(path) != opened.files[path] for path in paths):
            raise BundleError(f"{self.bundle.path} changed since it was opened", remedy="Open it again.")

    def close(self) -> None:
        """Free the threads and the sessions that were opened here, after one that is being opened. Calls that are under
        way in other threads raise BundleError at their next batch, unless they are at their last.
        """
        self._closed = True
        self._loader.close()
        with self._opening:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ends_when_closed(
    call: Callable[Concatenate[Opened, Asked], Answer],
) -> Callable[Concatenate[Opened, Asked], Answer]:
    """A method of a pipeline that raises BundleError, whatever it meets, where the pipeline is closed meanwhile: a
    session that is closed, a job that was cancelled, a pool that takes no more.
    """

    @functools.wraps(call)
    def ending(pipeline: Opened, /, *args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        try:
            return call(pipeline, *args, **kwargs)
        except (BackendError, CancelledError, RuntimeError):
            pipeline._require_open()
            raise

    return ending


def require_verified(bundle: Bundle, variant: Variant, options: OpenOptions, progress: Progress) -> Variant:
    """``variant`` as it is proven on this machine, by proving it now, on the device that is asked for, where it is not.

    The proof is kept in the manifest where the bundle can be written. Raises VerificationError where it fails,
    BackendUnavailableError where its runtime is not here, BackendError, such as EngineError, where that cannot open or
    run it: nothing is kept then.
    """
    backend(variant.backend).require()
    require_built(variant)
    if not proven_here(bundle, variant):
        progress.note(_why_again(bundle, variant))
        proof = verify_variant(
            bundle, variant, _as_before(bundle, variant, progress), progress, on=options.on, raising=True
        )
        variant = replace(variant, verification=proof)
        try:
            with locked(bundle.path):
                if read_manifest(bundle.path) != bundle.manifest:
                    raise BundleError("the bundle was changed after it was opened")
                bundle.commit(bundle.manifest.with_variant(variant))
        except (StorageError, BundleError) as error:
            progress.note(f"the proof is not kept: {error.message}")
    assert variant.verification is not None
    if not variant.verification.passed:
        compared = variant.verification.checks
        raise VerificationError(
            f"{variant.name} {'does not agree with PyTorch' if compared else 'cannot be used here'}: "
            f"{'; '.join(map(failure_text, variant.verification.failures))}",
            remedy="Choose another variant, or build it again: torchlift build.",
            variant=variant.name,
        )
    return variant


def _why_again(bundle: Bundle, variant: Variant) -> str:
    """Why a variant is verified before it serves: it was not yet, or it was refused."""
    refused = refused_here(bundle, variant)
    if refused is None:
        return f"{variant.name} was not verified on this machine with these releases: verifying it now"
    said = "; ".join(map(failure_text, refused.failures))
    return f"{variant.name} was refused here at {refused.provenance.at}: {said}; verifying it again"


def _as_before(bundle: Bundle, variant: Variant, progress: Progress) -> VerifyOptions:
    """The tolerance that the variant was last held to, where it was; one that is looser than the default is noted."""
    default = VerifyOptions()
    kept, usual = (o.tolerance(bundle, variant) for o in (default.as_before(variant), default))
    if kept.scaled > usual.scaled or kept.cosine < usual.cosine:
        progress.note(
            f"{variant.name} is held to the tolerance of before: off by at most {kept.scaled:g} of the scale, cosine "
            f"at least {kept.cosine:g}; the default is {usual.scaled:g} and {usual.cosine:g}"
        )
    return default.as_before(variant)
