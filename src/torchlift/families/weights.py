"""What families do with the weights of a checkpoint: read them, compare shapes with a network's, put them into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from torchlift.errors import CheckpointError, some
from torchlift.families.torch_file import load_torch_file
from torchlift.families.transformers_folder import as_float32, as_tensors

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a weight -> its shape."""


def read_state(
    file: Path,
    expected: str,
    under: Sequence[str] = ("state_dict",),
    stand_ins: Sequence[tuple[type, str]] = (),
) -> dict[str, Tensor]:
    """The state_dict in a file of torch.save: bare, or the first that stands ``under`` one of these keys.

    ``expected`` and ``stand_ins`` are those of :func:`~torchlift.families.torch_file.load_torch_file`. Raises
    CheckpointError for a file of anything else.
    """
    content = load_torch_file(file, expected, stand_ins)
    if isinstance(content, Mapping):
        content = next((content[key] for key in under if isinstance(content.get(key), Mapping)), content)
    return as_tensors(file, content, expected)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shape_of(shapes: Shapes, name: str, rank: int, *, what: str) -> tuple[int, ...]:
    """The shape of a weight. Raises CheckpointError where it is missing, has another number of dimensions, or a 0.

    ``what`` is the kind of model, for the remedy.
    """
    if name not in shapes:
        raise CheckpointError(f"{name} is missing", remedy=f"Give a whole {what} checkpoint.")
    if len(shapes[name]) != rank or 0 in shapes[name]:
        raise CheckpointError(
            f"{name} has shape {list(shapes[name])}; it must have {rank} dimensions, none of them 0",
            remedy=f"Give a {what} checkpoint as it was saved.",
        )
    return shapes[name]


def check_weights(what: str, file: Path, found: Shapes, expected: Shapes, remedy: str) -> None:
    """Compare names and shapes of weights with ``expected``. Raises CheckpointError with some that differ."""
    wrong = [f"{n} is {list(found[n])}, not {list(s)}" for n, s in expected.items() if n in found and found[n] != s]
    missing = [name for name in expected if name not in found]
    require_fit(what, file, missing, [name for name in found if name not in expected], wrong, remedy)


def require_fit(
    what: str, file: Path, missing: Sequence[str], unexpected: Sequence[str], wrong: Sequence[str], remedy: str
) -> None:
    """Raise CheckpointError, with some of them, where weights are missing, unexpected, or of wrong shapes."""
    problems = {"missing": missing, "unexpected": unexpected, "wrong shapes:": wrong}
    text = "; ".join(f"{problem} {some(names)}" for problem, names in problems.items() if names)
    if text:
        raise CheckpointError(f"{file} does not fit {what}: {text}", remedy=remedy)


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a network on the meta device its weights, and put it in eval mode. float32 weights are not copied.

    ``tensors`` may hold more than the network needs. Raises CheckpointError for a weight that is not finite, or no
    floating point.
    """
    state = {name: as_float32(name, tensors[name], needed) for name, needed in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    network.eval().requires_grad_(False)
