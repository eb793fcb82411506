"""The forms of a component's graph, and the recipes by which backends make variants of them. Data alone.

For example the recipe ``int8-bf16`` of OpenVINO has the precision ``int8`` and the form ``int8-s8s8``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torchlift.errors import BackendUnavailableError
from torchlift.machine import Availability
from torchlift.manifest import SOURCE_FORM, Precision

Way = Literal["export", "half", "integers", "nncf"]
"""How a form is made: ``export`` needs PyTorch, the others convert the component's own graph without it."""


def _anywhere() -> Availability:
    return Availability(True)


@dataclass(frozen=True)
class Form:
    """One form of a component's graph. ``name`` is what the manifest calls it, ``model`` the name of the graph's file.

    - ``made_by``: how it is made. What makes it is registered under this word, or for an export under the name.
    - ``scheme``: which scheme of :data:`torchlift.graph.schemes.SCHEMES` its integers follow.
    - ``half``: whether what ``scheme`` leaves in floating point is FP16.
    - ``calibrated``: whether its ranges are found on samples that a user gives.
    - ``learns``: whether the ranges that a network learnt in training can take the place of the samples.
    - ``available``: whether it can be made here.
    - ``missing``: what to tell of a bundle that lacks it. Empty where the name of the graph says enough.
    """

    name: str
    made_by: Way
    model: str = "model.onnx"
    scheme: str = ""
    half: bool = False
    calibrated: bool = False
    learns: bool = False
    missing: str = ""
    available: Callable[[], Availability] = field(default=_anywhere, repr=False, compare=False)

    @property
    def is_source(self) -> bool:
        """Whether it is the component's own graph, from which the others are made."""
        return self.name == SOURCE_FORM

    @property
    def exported(self) -> bool:
        """Whether the export makes it, and no conversion can."""
        return self.made_by == "export"

    def require(self) -> None:
        """Raise BackendUnavailableError where it cannot be made here."""
        state = self.available()
        if not state.ok:
            raise BackendUnavailableError(f"{self.name} cannot be made: {state.detail}", remedy=state.remedy)


@dataclass(frozen=True)
class Recipe:
    """One way in which a backend computes: ``Recipe("int8-bf16", "int8", INT8_S8S8, shares="int8")``.

    ``name`` is the precision, with a method where the backend has several. ``form`` is what the variant is built from.

    - ``emulated``: whether the backend computes its FP16 through FP32, which hides numbers that FP16 cannot hold.
    - ``asked_for``: whether it is made only where it is named, since nobody gains speed by it.
    - ``shares``: the recipe whose files serve this one too, where the two differ only in how they are opened.
    """

    name: str
    precision: Precision
    form: Form
    emulated: bool = False
    asked_for: bool = False
    shares: str = ""

    @property
    def method(self) -> str:
        """The name without the precision; empty for the plain one."""
        return self.name.removeprefix(self.precision).removeprefix("-")

    @property
    def files(self) -> str:
        """The name of the recipe whose files serve this one."""
        return self.shares or self.name

    @property
    def lossy(self) -> bool:
        """Whether only a task tells what is lost: without data it is made only where it is named."""
        return self.precision in ("fp16", "int8")

    def is_meant_by(self, asked: str) -> bool:
        """Whether a user means it by ``asked``, the name of a recipe or a precision."""
        return asked in (self.name, self.precision)


SOURCE = Form(SOURCE_FORM, "export")
FP16 = Form("fp16", "half")
INT8_U8S8 = Form("int8-u8s8", "integers", scheme="int8-u8s8", calibrated=True, learns=True)
INT8_S8S8 = Form("int8-s8s8", "integers", scheme="int8-s8s8", calibrated=True, learns=True)
INT8_S8S8_FP16 = Form("int8-s8s8-fp16", "integers", scheme="int8-s8s8", half=True, calibrated=True, learns=True)
INT8_DYNAMIC = Form("int8-dynamic", "integers", scheme="int8-dynamic")


def by_name(*recipes: Recipe) -> dict[str, Recipe]:
    """Recipes as a backend lists them."""
    return {recipe.name: recipe for recipe in recipes}
