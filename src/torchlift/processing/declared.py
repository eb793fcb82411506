"""Pre- and postprocessing that a user declared, as plain data that a manifest holds and any machine can apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from torchlift.errors import BundleError, InputError
from torchlift.processing.image import ImageInput
from torchlift.processing.labels import Labels

_INPUTS, _OUTPUTS = "inputs", "outputs"


def to_settings(preprocess: Mapping[str, ImageInput], postprocess: Mapping[str, Labels]) -> dict[str, Any]:
    """Plain data for a manifest's settings: what :func:`from_settings` reads."""
    return {_INPUTS: msgspec.to_builtins(dict(preprocess)), _OUTPUTS: msgspec.to_builtins(dict(postprocess))}


def from_settings(settings: Mapping[str, Any]) -> tuple[dict[str, ImageInput], dict[str, Labels]]:
    """Preprocessing by input name and postprocessing by output name. Raises BundleError for data of another form."""
    try:
        return (
            msgspec.convert(settings.get(_INPUTS, {}), dict[str, ImageInput]),
            msgspec.convert(settings.get(_OUTPUTS, {}), dict[str, Labels]),
        )
    except (msgspec.ValidationError, InputError) as error:
        raise BundleError(
            f"the bundle's pre- or postprocessing cannot be read: {error}", remedy="Ship the model again."
        ) from error
