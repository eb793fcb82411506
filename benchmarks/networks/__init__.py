"""The networks of the zoo, a module a kind. Those of transformers are built with small random weights."""

from __future__ import annotations

import importlib
import pkgutil

from zoo_case import ZOO, Registry


def load() -> Registry:
    """All cases."""
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        importlib.import_module(f"{__name__}.{module.name}")
    return ZOO
