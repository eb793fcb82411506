"""The weights of a folder by the names that transformers' networks have in memory, checked and put into a network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from torchlift.errors import CheckpointError
from torchlift.families.transformers_folder import as_float32, read_weights
from torchlift.families.weights import require_fit

_OLDER = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
"""Names of files that were converted from TensorFlow, and today's."""

_UNUSED = re.compile(r"(^|\.)(pooler\.|position_ids$|token_type_ids$)|^(cls\.seq_relationship|mask_predictions)\.")
"""Weights that files may hold and that no network here uses: what a head does not need, and counts."""


def read_state(files: Sequence[Path], prefix: str, *, encoder: bool, expected: str) -> dict[str, Tensor]:
    """Read the weights, by the names that the network has in memory.

    ``prefix`` is how the names of the encoder's weights begin in a network with a head, such as ``bert``. Of an
    ``encoder`` alone they begin with nothing, and what a head has beside them is left out.
    """
    found = {}
    for name, tensor in read_weights(files, expected).items():
        for pattern, now in _OLDER:
            name = re.sub(pattern, now, name)
        found[name] = tensor
    inner = {name.removeprefix(f"{prefix}."): t for name, t in found.items() if name.startswith(f"{prefix}.")}
    return inner if encoder and inner else found


def check_state(network: nn.Module, found: Mapping[str, Tensor], file: Path, expected: str) -> None:
    """Raise CheckpointError, with some of the names, where weights are missing, unexpected or of other shapes.

    A weight that the network shares with another may be missing.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shared = _shared(network)
    missing = [n for n in shapes if n not in found and not any(other in found for other in shared.get(n, ()))]
    unexpected = [name for name in found if name not in shapes and not _UNUSED.search(name)]
    wrong = [
        f"{name} has {list(found[name].shape)} and must have {list(shape)}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    require_fit(type(network).__name__, file, missing, unexpected, wrong, expected)


def fill(network: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Put checked weights into a network that was built without: float32, in eval mode, without gradients."""
    shared = _shared(network)
    state = {}
    for name, needed in network.state_dict().items():
        stored = name if name in found else next(other for other in shared[name] if other in found)
        state[name] = as_float32(stored, found[stored], needed)
    network.load_state_dict(state, assign=True)
    for name, buffer in network.named_buffers():
        if buffer.is_meta:
            path, _, last = name.rpartition(".")
            network.get_submodule(path).register_buffer(last, _counted(name, buffer), persistent=False)
    network.tie_weights()  # type: ignore[operator]
    network.eval().requires_grad_(False)


def _counted(name: str, buffer: Tensor) -> Tensor:
    """A buffer that no file holds: the numbers of the positions, or the types of a single text."""
    if name.endswith("position_ids"):
        return torch.arange(buffer.shape[-1]).expand(buffer.shape).clone()
    if name.endswith("token_type_ids"):
        return torch.zeros(buffer.shape, dtype=buffer.dtype)
    raise CheckpointError(f"the network has a buffer {name}, which is not known here", remedy="Ship it by `module`.")


def _shared(network: nn.Module) -> dict[str, list[str]]:
    """Name of a weight -> all names of it, where it has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}
