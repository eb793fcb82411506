"""Manifests of earlier versions as this version writes them: plain data in, plain data out, unchecked."""

from __future__ import annotations

import copy
from typing import Any

from torchlift.upgrade.declarations import declarations
from torchlift.upgrade.evidence import upgrade_evidence

__all__ = ["upgraded"]


def upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A manifest of version 1 as version 2 has it; one of another version as it is. ``data`` is not changed.

    Content that is no manifest is left for validation to refuse, or raises LookupError, TypeError, AttributeError or
    ValueError.
    """
    if data.get("version") != 1:
        return data
    found = copy.deepcopy(declarations(data))
    upgrade_evidence(found)
    return {**found, "version": 2}
