"""Draws the goldens: inputs at the corners of the axes' ranges and between them, with PyTorch's FP32 answers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch

from torchlift.axes import BATCH, Axis
from torchlift.errors import ExportError, ExportMemoryError, TorchliftError
from torchlift.families.base import ModelComponent
from torchlift.families.sizes import at, is_dynamic, narrower
from torchlift.progress import SILENT, Progress
from torchlift.prove.goldens import BETWEEN, Golden, require_signal
from torchlift.signature import CORNERS, Signature

_NO_MEMORY = re.compile(r"allocat|bad.?alloc|out of memory", re.IGNORECASE)
"""How the runtimes word it, each in another type of exception."""


def draw_goldens(part: ModelComponent, seed: int, progress: Progress = SILENT) -> list[Golden]:
    """Goldens for a component: one at each corner, and where axes vary two at seeded sizes between the corners.

    Raises ExportError where the network does not run at a size, or its answers are not what the signature says;
    NoSignalError where they are all zero, or not numbers.
    """
    signature = part.signature
    sizes: dict[str, dict[str, int]] = {corner: signature.sizes(corner) for corner in CORNERS}
    if any(is_dynamic(axis) for axis in signature.axes):
        sizes |= _between(signature, np.random.default_rng([seed, len(CORNERS)]))
    goldens = []
    with progress.stage(f"answers of PyTorch for {part.name}", len(sizes)) as stage:
        for number, (name, asked) in enumerate(sizes.items()):
            feeds = _drawn(part, asked, np.random.default_rng([seed, number]))
            goldens.append(Golden(name, feeds, answers_of(part, feeds)))
            stage.advance()
    require_signal(goldens)
    return goldens


def _between(signature: Signature, rng: np.random.Generator) -> dict[str, dict[str, int]]:
    """Sizes between least and optimum, and between optimum and greatest, odd ones where there are. The batch stays near
    the optimum: many rows cost time and prove no more than a few.
    """
    low = {axis.name: _inside(axis, axis.min, axis.opt, rng) for axis in signature.axes}
    high = {
        axis.name: _inside(axis, axis.opt, min(axis.max, 2 * axis.opt) if axis.name == BATCH else axis.max, rng)
        for axis in signature.axes
    }
    return dict(zip(BETWEEN, (low, high), strict=True))


def _inside(axis: Axis, low: int, high: int, rng: np.random.Generator) -> int:
    """A size of the axis between two others, neither of them where there is a third, odd where there is an odd one."""
    between = axis.sizes_between(low + axis.step, high - axis.step) or axis.sizes_between(low, high)
    size = between[int(rng.integers(len(between)))]
    steps = size // axis.step
    if steps % 2 == 0 and axis.has(size + axis.step) and size + axis.step <= high:
        return size + axis.step
    return size


def _drawn(part: ModelComponent, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples, which must be of the sizes that are asked for: at a corner of the ranges they prove that corner."""
    try:
        feeds = part.sample(sizes, rng)
    except MemoryError as error:
        raise no_memory(sizes, error) from error
    found = part.signature.check(feeds)
    if any(size != sizes[axis] for axis, size in found.items()):
        raise ExportError(
            f"the samples are of {at(found)}, and {at(sizes)} was asked for",
            remedy="What draws them (sample=) must return arrays of the sizes that it is given.",
        )
    return feeds


def asked(part: ModelComponent, feeds: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """What the network answers, by the names of its outputs. It gets copies: it may write into its inputs."""
    with torch.inference_mode():
        answers = part.reference(*(torch.tensor(feeds[name]) for name in part.signature.input_names))
    tensors = answers if isinstance(answers, tuple) else (answers,)
    return dict(zip(part.signature.output_names, tensors, strict=True))


def answers_of(part: ModelComponent, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's answers, which must be what the signature says."""
    signature = part.signature
    sizes = signature.check(feeds)
    try:
        answers = asked(part, feeds)
    except (TorchliftError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a user's network may end in sys.exit
        if is_memory(error):
            raise no_memory(sizes, error) from error
        raise ExportError(
            f"the network does not run at {at(sizes)}: {type(error).__name__}: {str(error).strip():.300}",
            remedy=narrower(signature.axes, sizes),
        ) from error
    outputs = {name: tensor.numpy() for name, tensor in answers.items()}
    for spec in signature.outputs:
        output = outputs[spec.name]
        if not spec.fits(output, sizes):
            raise ExportError(
                f"output {spec.name} is {output.dtype}{list(output.shape)} at {at(sizes)}, it must be {spec}",
                remedy=narrower(signature.axes, sizes),
            )
    return outputs


def is_memory(error: BaseException) -> bool:
    """Whether an error says that the memory does not suffice."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def no_memory(sizes: Mapping[str, int], error: BaseException) -> ExportMemoryError:
    return ExportMemoryError(
        f"the memory does not suffice at {at(sizes)}: {str(error).strip().partition(chr(10))[0]}",
        remedy="Lower the maximum of an axis with `axes=`, or use a machine with more memory.",
    )
