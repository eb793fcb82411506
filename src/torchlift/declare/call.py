"""How the network that was exported is called: its parameters, and the structure of what it returns."""

from __future__ import annotations

from typing import Any

import msgspec

Structure = Any
"""What a network returns, with the names of outputs in the place of tensors: ``"y"``, ``["a", "b"]`` for a tuple or a
list, ``{"logits": "logits", "hidden": ["hidden.0", "hidden.1"]}`` for a dict or a dataclass, None for None.
"""


class Call(msgspec.Struct, frozen=True):
    """How ``forward`` is called, for whoever puts the bundle in its place.

    ``parameters`` are the names of forward's parameters, in their order. A tensor that is nested in a parameter is an
    input that is named by its path: of ``state=(h, c)`` the inputs are ``state.0`` and ``state.1``. ``returns`` has the
    names of outputs where the network has tensors (:data:`Structure`). ``constants`` are the Python values that the
    network was exported with, by parameter or path: they are part of the graph. ``renamed`` has the input of each
    parameter that was declared by another name than forward has: it may be given by either.
    """

    parameters: tuple[str, ...]
    returns: Structure
    constants: dict[str, Any] = {}
    renamed: dict[str, str] = {}
