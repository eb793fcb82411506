"""Proves the FP32 of a runtime, since a variant of a lower precision rests on it.

For example OpenVINO computes an average pool wrongly, and is off by 8e-3 of the scale. Its FP32 is refused for that.
Its BF16 computes the same, and the tolerance of BF16 would let it pass. So a lower precision is believed only where the
same runtime answers rightly in FP32 from the same graph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from torchlift.backends import Backend, Compilation, Session, SessionOptions, backend
from torchlift.backends.opening import apart_if_looping, open_file
from torchlift.bundle import Bundle
from torchlift.errors import BundleError, TorchliftError
from torchlift.evidence import Failure, GoldenCheck, Tolerance
from torchlift.machine import RunOn
from torchlift.manifest import SOURCE_FORM, Component, Variant
from torchlift.progress import Progress
from torchlift.prove.ends import open_unproven
from torchlift.prove.goldens import load_goldens
from torchlift.prove.judges import judge_of
from torchlift.prove.numerics import failures, verify_goldens
from torchlift.prove.sizes import within
from torchlift.storage import without_folders

FP32 = "fp32"
"""The recipe that the others of a backend rest on."""

_FOUND: dict[Hashable, tuple[Failure, ...]] = {}
"""What was wrong with FP32 that is no variant of a bundle, by all that this depends on: each is run once a process."""


def rests_on(variant: Variant) -> str:
    """What a variant rests on: ``openvino/fp32``. Empty for FP32, and where the backend has none of the same graph."""
    runtime = backend(variant.backend)
    if variant.precision == FP32 or FP32 not in runtime.recipes:
        return ""
    return f"{runtime.name}/{FP32}" if runtime.recipe(FP32).form.name in (SOURCE_FORM, variant.form) else ""


def fp32_of(bundle: Bundle, variant: Variant) -> Variant | None:
    """The FP32 variant of the same component and backend; None where the bundle has none that was built."""
    ours = bundle.manifest.variants_of(variant.component)
    return next((v for v in ours if (v.backend, v.recipe) == (variant.backend, FP32) and not v.failure), None)


def fp32_failures(
    bundle: Bundle, variant: Variant, tolerance: Tolerance, progress: Progress, on: RunOn
) -> tuple[Failure, ...]:
    """What is wrong with the FP32 that ``variant`` rests on, at the component's goldens; empty where all is right.

    Where the bundle has no such variant, the component's graph is built in a temporary folder. A runtime that compiles
    for minutes is not asked to, which is noted. Raises BundleError where the bundle's files are not what its manifest
    says.
    """
    runtime, component = backend(variant.backend), bundle.manifest.component(variant.component)
    made = fp32_of(bundle, variant)
    if made is None and runtime.recipe(variant.recipe).files == runtime.recipe(FP32).files:
        made = replace(variant, precision="fp32", method="")  # the same files, opened at another precision
    if made is None and (runtime.compiles or runtime.opens_graphs):
        progress.note(
            f"{variant.name} is believed without the FP32 of {runtime.name}, which takes minutes to compile; "
            "`precisions=fp32` builds and proves that too"
        )
        return ()
    files = (made.files if made else ()) or (component.model,)
    hashes = tuple(sorted(bundle.manifest.hashes((*files, component.goldens)).items()))
    key = (runtime.version(), component.key, hashes, tolerance, on)
    if key not in _FOUND:
        found = _tried(bundle, component, runtime, made, tolerance, progress, on)
        if any(failure.kind == "error" for failure in found):
            return found  # such as too little memory: it is tried again
        _FOUND[key] = found
    return _FOUND[key]


def _tried(
    bundle: Bundle,
    component: Component,
    runtime: Backend,
    made: Variant | None,
    tolerance: Tolerance,
    progress: Progress,
    on: RunOn,
) -> tuple[Failure, ...]:
    goldens, name = load_goldens(bundle, component), f"{component.name}/{runtime.name}/{FP32}"
    judge = judge_of(bundle, component, goldens.values(), tolerance, on)
    checks: tuple[GoldenCheck, ...] = ()
    try:
        with progress.stage(f"verify {name}, which others rest on", len(goldens)) as stage:
            opened = open_unproven(bundle, made, SessionOptions(on)) if made else _built(bundle, component, runtime, on)
            with opened as session:
                for golden in goldens.values():
                    held = within(session, golden)
                    checks += verify_goldens(session.run, [held], judge) if held else ()
                    stage.advance()
    except BundleError:
        raise
    except TorchliftError as error:
        return (_error("; ".join(filter(None, (error.message, error.remedy)))),)
    except Exception as error:
        return (_error(f"{type(error).__name__}: {error}"),)
    return failures(checks, tolerance)


def _error(said: str) -> Failure:
    return Failure(kind="error", detail=without_folders(said))


@contextmanager
def _built(bundle: Bundle, component: Component, runtime: Backend, on: RunOn) -> Iterator[Session]:
    """A component's own graph in a runtime, in FP32, built for this once."""
    signature = component.signature
    with tempfile.TemporaryDirectory(prefix="torchlift-") as temporary:
        folder = Path(temporary)
        file = runtime.build(bundle.model(component), folder, signature, Compilation(FP32))
        opener = partial(open_file, runtime.name, folder / file, signature, FP32, SessionOptions(on))
        with apart_if_looping(bundle, component, f"{component.name}/{runtime.name}/{FP32}", opener) as session:
            yield session
