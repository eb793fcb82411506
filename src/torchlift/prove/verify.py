"""Proves a variant on this machine, and tells whether an earlier proof still holds here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from torchlift.backends import SessionOptions, backend
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, BundleError, TorchliftError, VerificationError, some, telling
from torchlift.evidence import Failure, GoldenCheck, Provenance, StressNote, Tolerance, Verification, now
from torchlift.machine import HERE, RunOn, this_machine
from torchlift.manifest import Graph, Precision, Variant
from torchlift.messages import run_text, stress_text
from torchlift.progress import SILENT, Progress
from torchlift.prove.beyond import stress_notes
from torchlift.prove.ends import open_half, open_unproven
from torchlift.prove.fp32 import fp32_failures, fp32_of, rests_on
from torchlift.prove.goldens import Golden, blank, goldens_of, load_goldens, load_samples
from torchlift.prove.judges import judge_of, usual_tolerance_in
from torchlift.prove.numerics import UNBOUNDED, Judge, failures, verify_goldens, verify_invariance
from torchlift.prove.sizes import answered, brought, within
from torchlift.prove.stress import stress_file
from torchlift.storage import without_folders


@dataclass(frozen=True)
class VerifyOptions:
    """``tolerances`` replaces the default of a precision."""

    tolerances: Mapping[Precision, Tolerance] = field(default_factory=dict)

    def tolerance(self, bundle: Bundle, variant: Variant, precision: Precision | None = None) -> Tolerance:
        """What a variant is held to; or what it would be at another ``precision``."""
        asked = precision or variant.precision
        component = bundle.manifest.component(variant.component)
        return self.tolerances.get(asked) or usual_tolerance_in(bundle, component, asked)

    def as_before(self, variant: Variant) -> VerifyOptions:
        """The same, with the tolerance that ``variant`` was last held to where none is given for its precision."""
        if variant.verification is None:
            return self
        return replace(self, tolerances={variant.precision: variant.verification.tolerance, **self.tolerances})


def provenance(bundle: Bundle, variant: Variant) -> Provenance:
    """Where a result about ``variant`` that is obtained now holds."""
    return Provenance(
        machine=this_machine(),
        runtime=backend(variant.backend).version(),
        files=_proven_files(bundle, variant),
        at=now(),
    )


def _proven_files(bundle: Bundle, variant: Variant) -> dict[str, str]:
    component = bundle.manifest.component(variant.component)
    goldens = (component.goldens, stress_file(bundle, component), goldens_of(_graph(bundle, variant)))
    return bundle.manifest.hashes((*variant.files, *(path for path in goldens if path)))


def _graph(bundle: Bundle, variant: Variant) -> Graph | None:
    return bundle.manifest.graph(variant.component, variant.form)


def judged_goldens(bundle: Bundle, variant: Variant) -> dict[str, Golden]:
    """The goldens at which the variant is held to its tolerance: real samples where its ranges are calibrated, since it
    need not know what it will never meet; else the component's.
    """
    component = bundle.manifest.component(variant.component)
    return load_samples(bundle, component, _graph(bundle, variant)) or load_goldens(bundle, component)


def proven_here(bundle: Bundle, variant: Variant, tolerance: Tolerance | None = None) -> bool:
    """Whether the variant passed with these files, this runtime's release and this processor, and at ``tolerance``
    where one is given. What failed is not proven, whatever the reason was: it may be tried again.
    """
    proof = variant.verification
    if variant.failure or proof is None or not proof.passed:
        return False
    if tolerance is not None and not _as_strict(proof.tolerance, tolerance):
        return False
    return _holds_here(bundle, variant)


def _as_strict(held_to: Tolerance, asked: Tolerance) -> bool:
    """Whether a proof at one tolerance serves for another: the same, but that fewer whole numbers may have differed."""
    return replace(held_to, differing=asked.differing) == asked and held_to.differing <= asked.differing


def _holds_here(bundle: Bundle, variant: Variant) -> bool:
    """Whether what the last verification found is of these files, this runtime's release and this processor."""
    version, proof = backend(variant.backend).version(), variant.verification
    return proof is not None and proof.provenance.holds(this_machine(), version, _proven_files(bundle, variant))


def refused_here(bundle: Bundle, variant: Variant) -> Verification | None:
    """The verification that refused the variant with these files, this runtime's release and this processor; None where
    none did.
    """
    proof = variant.verification
    if variant.failure or proof is None or proof.passed:
        return None
    return proof if _holds_here(bundle, variant) else None


def require_built(variant: Variant) -> None:
    """Raise VerificationError for a variant that could not be built."""
    if variant.failure:
        raise VerificationError(
            f"{variant.name} was not built: {telling(variant.failure)}",
            remedy="Choose another variant.",
            variant=variant.name,
        )


def runs_here(bundle: Bundle, variant: Variant) -> bool:
    """Whether the variant gave finite answers with these files, this runtime's release and this processor, right or
    wrong.
    """
    proof = variant.verification
    if variant.failure or proof is None or any(check.difference.nonfinite_mismatch for check in proof.checks):
        return False
    return bool(proof.checks) and _holds_here(bundle, variant)


def verify_variant(
    bundle: Bundle,
    variant: Variant,
    options: VerifyOptions | None = None,
    progress: Progress = SILENT,
    *,
    on: RunOn = HERE,
    raising: bool = False,
) -> Verification:
    """Run a variant at all goldens, and judge its answers by the tolerance of its precision.

    It is also run at the sizes that it has kernels of its own for, and with the rows of a batch beside other rows. A
    calibrated variant is judged at samples like those that it was calibrated on. At the drawn goldens its answers must
    only be finite and of the right shape. Where its samples cannot be brought to the size of a golden, nothing else is
    compared at that size, and a note says so.

    A lower precision fails where the same runtime's FP32 of the same graph is wrong, however close its own answers are:
    its tolerance would hide a kernel that computes something else.

    A runtime that fails to open or run it is a failed verification, or with ``raising`` its own BackendError. Raises
    BundleError where the bundle's files are not what its manifest says.
    """
    options = options or VerifyOptions()
    tolerance = options.tolerance(bundle, variant)
    component = bundle.manifest.component(variant.component)
    drawn, judged = load_goldens(bundle, component), judged_goldens(bundle, variant)
    goldens, calibrated = _by_key(*drawn.values(), *judged.values()), judged.keys() != drawn.keys()
    held_to = _by_key(*judged.values())
    judge = judge_of(bundle, component, drawn.values(), tolerance, on)
    checks: dict[Hashable, tuple[GoldenCheck, ...]] = {}
    invariance: tuple[GoldenCheck, ...] = ()
    wrong: tuple[Failure, ...] = ()
    stress: tuple[StressNote, ...] = ()
    beyond: tuple[Failure, ...] = ()
    runtime = backend(variant.backend)
    with progress.stage(f"verify {variant.name}", len(goldens) + 1) as stage:
        try:
            with open_unproven(bundle, variant, SessionOptions(on)) as session:
                met = []
                for key, golden in goldens.items():
                    held = within(session, golden)
                    checks[key] = verify_goldens(session.run, [held], judge) if held else ()
                    met += [component.signature.check(held.inputs)] if held and key in held_to else []
                    stage.advance()
                samples = brought(session, judged.values(), met) if calibrated else []
                met += [component.signature.check(golden.inputs) for golden in samples]
                others = [sizes for sizes in session.specialised() if sizes not in met]
                cuts = [*answered(bundle, component, drawn["max"], others, on)]
                held_to |= _by_key(*(samples if calibrated else cuts))
                for golden in (*samples, *cuts):
                    goldens[golden.key] = golden
                    checks[golden.key] = verify_goldens(session.run, [golden], judge)
                    if golden.key not in held_to:
                        progress.note(
                            f"{variant.name} is only known to be finite at {run_text(golden.run)}: its samples cannot "
                            "be brought to that size"
                        )
                for corner in ("opt", "max"):
                    held = within(session, drawn[corner])
                    if held and not invariance:
                        invariance = verify_invariance(session.run, component.signature, held, session.covers, judge)
                stress, beyond = stress_notes(bundle, variant, session, drawn.values(), tolerance, on)
                stage.advance()
            if runtime.replays and runtime.on_gpu():
                for key, replayed in _replayed(bundle, variant, goldens.values(), judge, on, progress).items():
                    checks[key] += replayed
            if not any(checks[key] for key in held_to):
                wrong = (Failure(kind="unproven"),)
            if runtime.recipe(variant.recipe).emulated:
                smallest = next(iter(held_to))
                checks[smallest] += _in_true_half(bundle, variant, held_to[smallest], judge, on)
        except BundleError:
            raise  # the state of the folder says nothing about the variant
        except TorchliftError as error:
            if raising and isinstance(error, BackendError):
                raise
            wrong = (_error("; ".join(filter(None, (error.message, error.remedy)))),)
        except Exception as error:
            wrong = (_error(f"{variant.backend} failed: {type(error).__name__}: {error}"),)
    wrong = _wrong_in_fp32(bundle, variant, options, progress, on) + wrong
    close = tuple(check for key in held_to for check in checks.get(key, ()))
    finite = tuple(check for key in goldens if key not in held_to for check in checks.get(key, ()))
    wrong += failures(close, tolerance) + failures(finite, UNBOUNDED) + failures(invariance, tolerance) + beyond
    if stress and variant.precision == "fp32":
        said = some([stress_text(note) for note in stress])
        progress.note(f"{variant.name} answers otherwise than PyTorch beyond the goldens: {said}")
    return Verification(provenance(bundle, variant), tolerance, close, invariance, wrong, stress)


def _wrong_in_fp32(
    bundle: Bundle, variant: Variant, options: VerifyOptions, progress: Progress, on: RunOn
) -> tuple[Failure, ...]:
    """The first failure of the FP32 that a variant of a lower precision rests on, as found before or now."""
    name = rests_on(variant)
    if not name:
        return ()
    made = fp32_of(bundle, variant)
    if made is not None and made.verification is not None and _holds_here(bundle, made):
        found = made.verification.failures
    else:
        found = fp32_failures(bundle, variant, options.tolerance(bundle, variant, "fp32"), progress, on)
    return tuple(replace(failure, rests_on=name) for failure in found[:1])


def _by_key(*goldens: Golden) -> dict[Hashable, Golden]:
    return {golden.key: golden for golden in goldens}


def _error(said: str) -> Failure:
    return Failure(kind="error", detail=without_folders(said))


def _replayed(
    bundle: Bundle, variant: Variant, goldens: Iterable[Golden], judge: Judge, on: RunOn, progress: Progress
) -> dict[Hashable, tuple[GoldenCheck, ...]]:
    """What it answers to each golden where it replays CUDA graphs: recorded in a run of all shapes with blank inputs,
    replayed in a second one; so many shapes at a time as it keeps.

    Nothing where it cannot, which is noted: then it is not measured so either, and not chosen.
    """
    found = {}
    try:
        with open_unproven(bundle, variant, SessionOptions(on, cuda_graph=True)) as session:
            if not session.records:
                progress.note(f"{variant.name} replays no CUDA graphs: it computes the size of an output")
                return {}
            held = [(golden.key, inside) for golden in goldens if (inside := within(session, golden))]
            for some in (held[i : i + session.records] for i in range(0, len(held), session.records)):
                for _, golden in some:
                    session.run(blank(session.signature, golden.inputs))
                for key, golden in some:
                    checks = verify_goldens(session.run, [golden], judge)
                    found[key] = tuple(replace(check, replayed=True) for check in checks)
    except BackendError as error:
        progress.note(f"{variant.name} replays no CUDA graphs: {without_folders(error.message)}")
        return {}
    return found


def _in_true_half(bundle: Bundle, variant: Variant, golden: Golden, judge: Judge, on: RunOn) -> tuple[GoldenCheck, ...]:
    """What the variant's graph answers where every result is rounded to FP16: GPUs do so, this runtime does not."""
    graph = _graph(bundle, variant)
    if graph is None:
        return ()
    with open_half(bundle, graph, on) as session:
        checks = verify_goldens(session.run, [golden], judge)
    return tuple(replace(check, true_half=True) for check in checks)
