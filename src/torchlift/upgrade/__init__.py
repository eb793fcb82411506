"""Manifests of earlier versions as this version writes them: plain data in, plain data out, unchecked."""

from __future__ import annotations

import copy
from typing import Any

from torchlift.upgrade.declarations import declarations
from torchlift.upgrade.evidence import upgrade_evidence

__all__ = ["upgraded"]


def upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A manifest of version 1 or 2 as version 3 has it; one of another version as it is. ``data`` is not changed.

    Version 3 added fields, and each has a default: a bundle of version 2 has none of them. Content that is no manifest
    is left for validation to refuse, or raises LookupError, TypeError, AttributeError or ValueError.
    """
    if data.get("version") == 1:
        data = copy.deepcopy(declarations(data))
        upgrade_evidence(data)
        data["version"] = 2
    return {**data, "version": 3} if data.get("version") == 2 else data
