"""Which variants to make on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from torchlift.backends import BACKENDS, backend
from torchlift.errors import BackendUnavailableError, InputError
from torchlift.forms import Form, Recipe
from torchlift.manifest import Precision

RANKS: dict[Precision, int] = {"fp32": 0, "bf16": 1, "fp16": 2, "int8": 3}
"""From the most precise on; a tie goes to the more precise."""


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

    def suffice(self, form: Form) -> bool:
        """Whether a graph of the form is there, or all that it is made from."""
        needs_samples = form.calibrated and not (form.learns and self.learnt)
        return form.name in self.graphs or self.samples or not needs_samples

    def has_maker(self, form: Form) -> bool:
        """Whether a graph of the form is there, or this machine has what makes one."""
        return form.name in self.graphs or form.available().ok


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
    wanted = [(n, r) for n in names for r in backend(n).recipes.values() if _wanted(n, r, options, materials)]
    for name in options.backends:
        if not any(n == name for n, _ in wanted):
            raise BackendUnavailableError(
                f"{name} runs none of {', '.join(options.precisions)} here",
                remedy=f"Its precisions are {', '.join(backend(name).recipes)}.",
            )
    for _, recipe in wanted:
        if not materials.has_maker(recipe.form):
            recipe.form.require()
    _require_samples([recipe for _, recipe in wanted], options, materials)
    return [(name, recipe.name) for name, recipe in wanted if materials.suffice(recipe.form)]


def _recipes_of(name: str, asked: str) -> list[str]:
    return [recipe.name for recipe in backend(name).recipes.values() if recipe.is_meant_by(asked)]


def _wanted(name: str, recipe: Recipe, options: BuildOptions, materials: Materials) -> bool:
    """Whether a recipe is to be made. One that is named is, also where its form cannot be made: that is an error."""
    if not backend(name).supports(recipe.name).ok:
        return False
    if recipe.name in options.precisions:
        return True
    if recipe.asked_for or not materials.has_maker(recipe.form):
        return False
    return recipe.precision in options.precisions if options.precisions else materials.data or not recipe.lossy


def _require_samples(recipes: list[Recipe], options: BuildOptions, materials: Materials) -> None:
    for asked in options.precisions:
        calibrated = [recipe.form for recipe in recipes if recipe.is_meant_by(asked) and recipe.form.calibrated]
        if calibrated and not any(materials.suffice(form) for form in calibrated):
            raise InputError(
                f"{asked} needs samples to calibrate on, and none are given",
                remedy="Give `calibration=` some hundred real inputs, or ask for int8-dynamic, which finds "
                "its ranges as it runs.",
            )
