"""A network of the zoo, with what its user would declare: inputs, axes, and how it is called."""

from __future__ import annotations

import inspect
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

FRESH = 8
"""At how many sets of sizes an answer is compared."""


@dataclass(frozen=True)
class Axis:
    """A dimension that may vary. With ``step`` 32 the network takes multiples of 32 only."""

    name: str
    min: int
    opt: int
    max: int
    step: int = 1


@dataclass(frozen=True)
class Input:
    """A tensor that the network takes, called as the parameter of ``forward``; ``state.0`` is the first of a tuple.

    ``shape`` holds sizes and names of axes. Integers are drawn within ``bounds`` (low, high; high is not drawn). Floats
    are drawn from the normal distribution, or evenly within ``bounds``. The rows of a ``mask`` are ones, then zeros.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bounds: tuple[float, float] | None = None
    mask: bool = False


Sizes = Mapping[str, int]
Feeds = dict[str, np.ndarray]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a network is called with: by position, and by keyword."""


@dataclass(frozen=True)
class Case:
    """``build`` gives the network with seeded weights, ``sample`` draws inputs where bounds do not suffice. ``refused``
    says why no right file is possible; else it is "". ``tolerance`` is the largest difference that counts as rounding,
    as a share of the output's greatest magnitude.
    """

    name: str
    group: str
    build: Callable[[], nn.Module]
    inputs: tuple[Input, ...]
    axes: tuple[Axis, ...]
    sample: Callable[[Sizes, np.random.Generator], Feeds] | None = None
    refused: str = ""
    tolerance: float = 1e-3

    def network(self) -> nn.Module:
        """The network, the same whenever it is built."""
        torch.manual_seed(0)
        np.random.seed(0)
        return self.build()

    def arguments(self, network: nn.Module, values: Mapping[str, Any]) -> Arguments:
        """Arguments of ``forward``: by position where the inputs are its first parameters or no parameters at all, else
        by keyword. ``state.0`` and ``state.1`` make a tuple, ``pair.left`` a dict.
        """
        positional, named = _parameters(network)
        nested: dict[str, Any] = {}
        for name, value in values.items():
            *path, last = name.split(".")
            inner = nested
            for part in path:
                inner = inner.setdefault(part, _Parts())
            inner[last] = value
        given = {name: _tupled(value) for name, value in nested.items()}
        if positional[: len(given)] == list(given) or not set(given) <= {*positional, *named}:
            return tuple(given.values()), {}
        return (), given

    def fresh(self) -> list[Sizes]:
        """Sizes to compare answers at: the least, the greatest, and some within, on the steps of the axes."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        inner = [
            {a.name: int(rng.integers(0, (a.max - a.min) // a.step + 1)) * a.step + a.min for a in self.axes}
            for _ in range(FRESH - 2)
        ]
        return [{a.name: a.min for a in self.axes}, *inner, {a.name: a.max for a in self.axes}]

    def draw(self, sizes: Sizes, seed: int) -> Feeds:
        """Seeded inputs of the given sizes."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), seed])
        return self.drawn(sizes, rng)

    def drawn(self, sizes: Sizes, rng: np.random.Generator) -> Feeds:
        """Inputs of the given sizes."""
        if self.sample is not None:
            return self.sample(sizes, rng)
        return {spec.name: draw(spec, sizes, rng) for spec in self.inputs}

    @property
    def typical(self) -> Sizes:
        """The sizes that a user would export with."""
        return {a.name: a.opt for a in self.axes}


def draw(spec: Input, sizes: Sizes, rng: np.random.Generator) -> np.ndarray:
    """One input at the given sizes."""
    shape = tuple(sizes[d] if isinstance(d, str) else d for d in spec.shape)
    if spec.mask:
        lengths = rng.integers(1, shape[-1] + 1, size=(*shape[:-1], 1))
        return (np.arange(shape[-1]) < lengths).astype(spec.dtype)
    if spec.dtype == "bool":
        return rng.random(shape) < 0.5
    if "int" in spec.dtype:
        low, high = spec.bounds or (0, 100)
        return rng.integers(int(low), int(high), shape).astype(spec.dtype)
    values = rng.standard_normal(shape) if spec.bounds is None else rng.uniform(*spec.bounds, shape)
    return np.asarray(values).astype(spec.dtype)


def _parameters(network: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the parameters of ``forward``: those that take a position, and those that are keywords alone."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):  # of a scripted module
        return [], []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return positional, [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


class _Parts(dict):
    """Parts of one argument, by the last part of their name."""


def _tupled(value: Any) -> Any:
    if not isinstance(value, _Parts):
        return value
    parts = {key: _tupled(part) for key, part in value.items()}
    return tuple(parts.values()) if all(key.isdigit() for key in parts) else parts


DEFAULTS = {
    a.name: a
    for a in (
        Axis("batch", 1, 2, 5),
        Axis("sequence", 4, 9, 24),
        Axis("steps", 3, 7, 20),
        Axis("tokens", 2, 6, 15),
        Axis("height", 16, 24, 41),
        Axis("width", 18, 28, 45),
        Axis("samples", 400, 640, 1207),
        Axis("frames", 12, 20, 37),
        Axis("nodes", 4, 6, 13),
        Axis("edges", 5, 11, 30),
        Axis("rows", 2, 5, 11),
        Axis("items", 3, 8, 17),
    )
}
"""The range of an axis that a case does not declare itself."""


@dataclass
class Registry:
    """All cases, by name."""

    cases: dict[str, Case] = field(default_factory=dict)

    def add(self, group: str, name: str, build: Callable[[], nn.Module], *inputs: Input, **more: Any) -> None:
        """Add a case. Axes that ``axes`` does not give have the ranges of ``DEFAULTS``."""
        given = {axis.name: axis for axis in more.pop("axes", ())}
        names = dict.fromkeys(d for spec in inputs for d in spec.shape if isinstance(d, str))
        if name in self.cases:
            raise ValueError(f"there are two networks called {name}")
        axes = tuple(given.get(n) or DEFAULTS[n] for n in names)
        self.cases[name] = Case(name, group, build, inputs, axes, **more)


ZOO = Registry()


def case(group: str, *inputs: Input, name: str = "", **more: Any) -> Callable[[Any], Any]:
    """Declare a class of a network, or a function that builds one. Its name in the zoo is that of the class, as in
    ``lstm-with-state`` of ``LstmWithState``.
    """

    def mark(build: Any) -> Any:
        called = name or re.sub(r"(?<!^)(?=[A-Z])", "-", build.__name__).lower().replace("_", "-")
        ZOO.add(group, called, lambda: build().eval(), *inputs, **more)
        return build

    return mark


def f32(name: str, *shape: int | str, within: tuple[float, float] | None = None) -> Input:
    """Real numbers in 32 bits."""
    return Input(name, "float32", shape, within)


def i64(name: str, *shape: int | str, below: int = 100, least: int = 0) -> Input:
    """Whole numbers in 64 bits, from ``least`` to ``below`` - 1."""
    return Input(name, "int64", shape, (least, below))


def mask(name: str, *shape: int | str, dtype: str = "int64") -> Input:
    """Which positions hold something: ones, then zeros."""
    return Input(name, dtype, shape, (0, 2), mask=True)


def lively(network: nn.Module, gain: float = 1.0) -> nn.Module:
    """The network with weights that give answers of an ordinary size, which depend on all inputs.

    Many architectures are born with weights near zero, so that a wrong mask would change the answers by less than what
    is compared.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.ndim >= 2:
                fan_in = max(parameter.numel() // parameter.shape[0], 1)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * gain / fan_in**0.5)
            elif bool((parameter == 0).all()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif bool((parameter == 1).all()):
                parameter.copy_(1 + torch.randn(parameter.shape, generator=generator) * 0.1)
        for name, buffer in network.named_buffers():
            if name.endswith("codebook.embed"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return network.eval()


def settled(network: nn.Module, run: Callable[[], object]) -> nn.Module:
    """The network with the statistics of BatchNorm that ``run`` of it gives. Others would let the signal die out."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        with torch.no_grad():
            run()
    return network.eval()
