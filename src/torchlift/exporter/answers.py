"""Draws the goldens: inputs at the corners of the axes' ranges and between them, with PyTorch's FP32 answers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import torch

from torchlift.axes import BATCH, Axis
from torchlift.errors import ExportError, TorchliftError
from torchlift.families.base import ModelComponent
from torchlift.families.sizes import is_dynamic
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


def answers_of(part: ModelComponent, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's answers, which must be what the signature says."""
    signature = part.signature
    sizes = signature.check(feeds)
    try:
        with torch.inference_mode():
            answers = part.reference(*(torch.tensor(feeds[n]) for n in signature.input_names))
    except (TorchliftError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a user's network may end in sys.exit
        if is_memory(error):
            raise no_memory(sizes, error) from error
        raise ExportError(
            f"the network does not run at {at(sizes)}: {type(error).__name__}: {str(error).strip():.300}",
            remedy=_narrower(signature, sizes),
        ) from error
    tensors = answers if isinstance(answers, tuple) else (answers,)
    outputs = {n: t.numpy() for n, t in zip(signature.output_names, tensors, strict=True)}
    for spec in signature.outputs:
        output = outputs[spec.name]
        if not spec.fits(output, sizes):
            raise ExportError(
                f"output {spec.name} is {output.dtype}{list(output.shape)} at {at(sizes)}, it must be {spec}",
                remedy=_narrower(signature, sizes),
            )
    return outputs


def at(sizes: Mapping[str, int]) -> str:
    """Sizes in words: ``batch 3, sequence 17``."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "the shapes of its inputs"


def _narrower(signature: Signature, sizes: Mapping[str, int]) -> str:
    """What to do where a network does not hold at ``sizes`` what its ranges promise."""
    axis = next((a for a in reversed(signature.axes) if is_dynamic(a)), None)
    if axis is None:
        return "Correct the network, or the shapes and the sample of its inputs."
    step = _common_step(axis, sizes.get(axis.name, axis.opt))
    too_small = sizes.get(axis.name, axis.opt) < axis.opt
    verb, low, high = ("Raise", axis.opt, axis.max) if too_small else ("Lower", axis.min, axis.opt)
    multiples = f" Where it takes multiples only, declare that: Axis({axis.name!r}, ..., step={step})." if step else ""
    return (
        f"{verb} the range to what the network takes, for example `axes={axis.name}={low}..{axis.opt}..{high}`."
        f"{multiples}"
    )


def _common_step(axis: Axis, size: int) -> int:
    """A step that the corners of a range have and ``size`` has not, such as 32; 0 where there is none."""
    common = math.gcd(axis.min, axis.opt, axis.max)
    return common if common > 1 and size % common else 0


def is_memory(error: BaseException) -> bool:
    """Whether an error says that the memory does not suffice."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def no_memory(sizes: Mapping[str, int], error: BaseException) -> ExportError:
    return ExportError(
        f"the memory does not suffice at {at(sizes)}: {str(error).strip().partition(chr(10))[0]}",
        remedy="Lower the maximum of an axis with `axes=`, or use a machine with more memory.",
    )
