"""Any nn.Module: a network of a user's own, from a file and a function or as a live object."""

from __future__ import annotations

from torchlift.families.module.family import ModuleFamily

__all__ = ["ModuleFamily"]
