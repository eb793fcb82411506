"""The contract of a family: it reads a model from its source, and hands out its components one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from torchlift.declare.answers import Answer
from torchlift.declare.call import Call
from torchlift.declare.inputs import Input
from torchlift.errors import SignatureError, SourceError
from torchlift.graph.scales import Scales
from torchlift.signature import Axis, Signature

Sampler = Callable[[Mapping[str, int], np.random.Generator], dict[str, np.ndarray]]
"""Draws realistic inputs for given sizes of the axes: input name -> array of the signature's dtype and shape."""


@dataclass(frozen=True)
class LoadOptions:
    """What a user may state about a source.

    ``axes`` replaces ranges of axes by component: {"image": {"batch": Axis(...)}}. The key "" is for every component.
    ``vocabulary`` is the path of a vocab.txt. ``resolution`` is another size of images, in pixels.
    """

    axes: Mapping[str, Mapping[str, Axis]] = field(default_factory=dict)
    vocabulary: Path | None = None
    resolution: int | None = None

    def axis(self, component: str, default: Axis) -> Axis:
        """The range of an axis: that of the user for the component, else that for all components, else ``default``. The
        step of the default stays where the user states none.
        """
        for scope in (component, ""):
            if default.name in self.axes.get(scope, {}):
                stated = self.axes[scope][default.name]
                return stated if stated.step > 1 else replace(stated, step=default.step)
        return default

    def check_axes(self, known: Mapping[str, Sequence[str]]) -> None:
        """Raise SignatureError for a component or an axis that the model does not have.

        ``known``: component -> its axes.
        """
        everywhere = tuple(dict.fromkeys(name for names in known.values() for name in names))
        for scope, axes in self.axes.items():
            if scope and scope not in known:
                raise SignatureError(
                    f"axes are stated for a component {scope!r}", remedy=f"The components are {', '.join(known)}."
                )
            names = known.get(scope, everywhere)
            for name in axes:
                if name not in names:
                    raise SignatureError(
                        f"{scope or 'the model'} has no axis {name!r}",
                        remedy=f"Its axes are {', '.join(names) or 'none'}.",
                    )


@dataclass(frozen=True)
class ModelComponent:
    """A component with its weights in memory, in eval mode, float32, on the CPU.

    - ``reference`` is the published network. Its answers are the truth. ``exported`` gives the same answers with a
      graph that runs better. Both take the signature's inputs by position, and return its outputs as a tensor or a
      tuple.
    - ``inputs`` and ``answers`` declare, by name, what each input takes and what each output means. An input or output
      that is not declared is a plain array.
    - ``call`` says how a user calls the network itself, where that is another way. ``inner`` is then the path of the
      network within ``exported``, which names of modules in the graph leave out.
    - ``scales`` are what fake quantisation learnt, by the path of a module in ``exported``. The scales of weights
      belong to weights into which batch normalisation is folded. Empty for a network that was trained without.
    - ``keep`` names modules of ``exported`` that stay FP32 in every converted graph, with everything below them. For
      example ``("head.decode",)``: boxes in pixels need more digits than FP16 or INT8 have. ``keep_int8`` names those
      that stay FP32 in INT8 graphs only, such as a layer that writes pixels.
    """

    name: str
    signature: Signature
    reference: nn.Module
    exported: nn.Module
    sample: Sampler
    inputs: Mapping[str, Input] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    scales: Mapping[str, Scales] = field(default_factory=dict)
    call: Call | None = None
    inner: str = ""
    keep: tuple[str, ...] = ()
    keep_int8: tuple[str, ...] = ()


class Model(ABC):
    """A model that a family found at a source.

    The weights of a component are read when the component is asked for, so that two towers need not be in memory
    together. ``notes`` are what whoever ships it should know. ``settings`` and ``assets`` (role -> file name, content)
    go into the bundle for its ``pipeline``, which is a name. ``key`` is a hash of everything that the components
    depend on.
    """

    name: str
    family: str
    settings: Mapping[str, Any]
    assets: Mapping[str, tuple[str, bytes]]
    key: str
    pipeline: str = "tensors"
    notes: tuple[str, ...] = ()
    component_names: tuple[str, ...]

    @abstractmethod
    def component(self, name: str, *, attention: str = "sdpa") -> ModelComponent:
        """Load one component.

        ``attention`` is how attention is written. ``sdpa`` and ``eager`` are products and a softmax; the oldest parsers
        need ``eager``. ``node`` is exported as one operator at opset 23 and later. Raises SourceError.
        """

    def check_component(self, name: str) -> None:
        """Raise SourceError for a component that there is not."""
        if name not in self.component_names:
            are = "component is" if len(self.component_names) == 1 else "components are"
            raise SourceError(
                f"{self.name} has no component {name!r}", remedy=f"Its {are} {', '.join(self.component_names)}."
            )

    def declared(self, name: str) -> Signature | None:
        """The signature of a component, where it is known before the weights are read. None where it is not."""
        return None


class Family(ABC):
    """One kind of model, by name."""

    name: ClassVar[str]

    @abstractmethod
    def load(self, source: str, options: LoadOptions) -> Model:
        """Find the model at ``source``: a file, a folder, a hub name, or ``file.py:function``.

        Raises SourceError or a subclass, which names what was found and what was expected.
        """
