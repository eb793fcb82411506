"""Any nn.Module: a network of a user's own, from a file and a function or as a live object."""

from __future__ import annotations

from torchlift.families.module.family import ModuleFamily, live_model

__all__ = ["ModuleFamily", "live_model"]
