"""Which variants to make on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from torchlift.backends import BACKENDS, backend
from torchlift.convert.forms import FORMS, Integers
from torchlift.convert.nncf import nncf_available
from torchlift.errors import BackendUnavailableError, InputError
from torchlift.manifest import Precision, precision_of

RANKS: dict[Precision, int] = {"fp32": 0, "bf16": 1, "fp16": 2, "int8": 3}
"""From the most precise on; a tie goes to the more precise."""

_NNCF = "int8-nncf"

UNSCORED: tuple[Precision, ...] = ("fp32", "bf16")
"""The precisions that are made without being named where there is no data: what is lost by the others, only a task
tells."""


@dataclass(frozen=True)
class BuildOptions:
    """Which variants to make: those of every available backend and every precision that the machine has instructions
    for, unless named. A backend of which the target must have more than torchlift brings is used only where it is
    named. ``precisions`` names precisions or single recipes (int8, int8-dynamic). A backend or precision that is named
    and not available is an error.
    """

    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Materials:
    """What there is to make variants from: data to score them on, samples to calibrate on, scales that were learnt in
    training, graphs of these forms.
    """

    data: bool = False
    samples: bool = False
    learnt: bool = False
    graphs: frozenset[str] = frozenset()

    @property
    def has_nncf(self) -> bool:
        """Whether graphs of NNCF are there or can be made."""
        return _NNCF in self.graphs or nncf_available().ok

    def allow(self, form: str) -> bool:
        """Whether graphs of a form are there or can be made."""
        made = FORMS.get(form)
        needs_samples = made is not None and made.calibrated and not (self.learnt and isinstance(made, Integers))
        return self.samples or form in self.graphs or not needs_samples


def plan(options: BuildOptions, materials: Materials | None = None) -> list[tuple[str, str]]:
    """The (backend, recipe) pairs to build here. Raises BackendUnavailableError for what was named and cannot be,
    InputError for what was named and has no samples to be calibrated on.
    """
    materials = materials or Materials()
    for name in options.backends:
        backend(name).require()
    names = options.backends or tuple(n for n in BACKENDS if not backend(n).asked_for and backend(n).available().ok)
    for asked in options.precisions:
        states = [backend(n).supports(r) for n in names for r in _recipes_of(n, asked)]
        if not any(s.ok for s in states):
            details = dict.fromkeys(s.detail for s in states or [backend(n).supports(asked) for n in names])
            raise BackendUnavailableError(
                f"no backend here runs {asked}: {'; '.join(details)}",
                remedy="See `torchlift doctor` for what this machine runs.",
            )
    pairs = [(n, r) for n in names for r in backend(n).recipes if _wanted(n, r, options, materials)]
    for name in options.backends:
        if not any(n == name for n, _ in pairs):
            raise BackendUnavailableError(
                f"{name} runs none of {', '.join(options.precisions)} here",
                remedy=f"Its precisions are {', '.join(backend(name).recipes)}.",
            )
    if any(backend(n).recipes[r] == _NNCF for n, r in pairs) and not materials.has_nncf:
        state = nncf_available()
        raise BackendUnavailableError(f"int8-nncf cannot be made: {state.detail}", remedy=state.remedy)
    _require_samples(pairs, options, materials)
    return [(n, r) for n, r in pairs if materials.allow(backend(n).recipes[r])]


def _recipes_of(name: str, asked: str) -> list[str]:
    return [r for r in backend(name).recipes if asked in (r, precision_of(r))]


def _wanted(name: str, recipe: str, options: BuildOptions, materials: Materials) -> bool:
    runtime = backend(name)
    if not runtime.supports(recipe).ok:
        return False
    if runtime.recipes[recipe] == _NNCF and recipe not in options.precisions and not materials.has_nncf:
        return False
    if options.precisions:
        by_precision = precision_of(recipe) in options.precisions and recipe not in runtime.on_request
        return recipe in options.precisions or by_precision
    return recipe not in runtime.on_request and (materials.data or precision_of(recipe) in UNSCORED)


def _require_samples(pairs: list[tuple[str, str]], options: BuildOptions, materials: Materials) -> None:
    for asked in options.precisions:
        meant = [backend(n).recipes[r] for n, r in pairs if asked in (r, precision_of(r))]
        calibrated = [form for form in meant if form in FORMS and FORMS[form].calibrated]
        if calibrated and not any(materials.allow(form) for form in calibrated):
            raise InputError(
                f"{asked} needs samples to calibrate on, and none are given",
                remedy="Give --calibration FOLDER with some hundred real inputs, or ask for int8-dynamic, which finds "
                "its ranges as it runs.",
            )
