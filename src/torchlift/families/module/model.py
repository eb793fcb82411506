"""A user's network as a model: one component, whose outputs and their shapes are found by running it."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchlift.checksums import key_of, sha256
from torchlift.declare.answers import Answer, Boxes, Picture, Span
from torchlift.declare.call import Call
from torchlift.declare.check import completed_answers, completed_inputs
from torchlift.declare.module import ModuleDeclaration
from torchlift.errors import ModuleSourceError, SignatureError, TorchliftError
from torchlift.families.base import LoadOptions, Model, ModelComponent
from torchlift.families.fake_quant import is_fake_quantised, take_scales
from torchlift.families.module.binding import INNER, Called
from torchlift.families.module.constants import constants_of
from torchlift.families.module.declaring import completed
from torchlift.families.module.networks import in_float32
from torchlift.families.module.returns import Items, leaves_of, structure_of
from torchlift.families.module.sizes import dimension, probes
from torchlift.families.module.texts import ModuleTexts
from torchlift.families.samples import BoundsSampler
from torchlift.families.sizes import at, distinct_sizes, narrower
from torchlift.families.user_code import users_code
from torchlift.graph.scales import Scales, to_plain
from torchlift.signature import DTYPES, Dim, Signature, TensorSpec

COMPONENT = "model"

_PIPELINES: dict[type[Answer], str] = {
    Span: "question-answering",
    Boxes: "detection",
    Picture: "super-resolution",
}
"""A kind of answer that has a pipeline of its own -> what manifests call it."""

_FIRST = "Correct the declared shapes, ranges or bounds, or declare sample= to draw realistic inputs."
"""What to do where a network does not even run near the optimum of its axes."""


class UserModel(Model):
    """A plain network and what is declared of it. ``options`` may state other ranges of axes. ``folder`` is where the
    files that it names are, such as a tokenizer's.

    ``origin`` goes into the key: what the network was made by. ``notes`` are what whoever ships it should know. Raises
    ModuleSourceError and SignatureError where network and declaration do not fit.
    """

    family = "module"
    component_names = (COMPONENT,)

    def __init__(
        self,
        name: str,
        network: nn.Module,
        declaration: ModuleDeclaration,
        options: LoadOptions,
        folder: Path,
        origin: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.settings = {}
        self.pipeline = next(
            (_PIPELINES[type(answer)] for answer in declaration.postprocess.values() if type(answer) in _PIPELINES),
            self.pipeline,
        )
        self.notes: tuple[str, ...] = ()
        self._texts = ModuleTexts.read(folder, declaration.preprocess)
        self.assets = self._texts.assets
        declaration, self._binding = completed(network, declaration, self._texts.bounded)
        options.check_axes({COMPONENT: [axis.name for axis in declaration.axes]})
        axes = tuple(options.axis(COMPONENT, axis) for axis in declaration.axes)
        self._declaration = declaration = replace(declaration, axes=axes)
        Signature(self._declaration.inputs, (), self._declaration.axes)  # refuses what cannot be drawn before it is
        network = in_float32(network, {spec.dtype for spec in declaration.inputs}, self._try)
        self._network, self._scales = self._without_quantisers(network)
        self._signature, self._called, self._call, answers = self._with_outputs()
        self._check_processing()
        self.key = key_of(
            *origin,
            _code(network),
            _source(declaration.sample),
            _digest(self._network),
            to_plain(self._scales),
            answers,
            declaration.inputs,
            self._signature.output_names,
            declaration.axes,
            self._texts.inputs,
            sorted((role, hashlib.sha256(content).hexdigest()) for role, (_, content) in self.assets.items()),
            declaration.postprocess,
        )

    def declared(self, name: str) -> Signature:
        return self._signature

    def component(self, name: str, *, attention: str = "sdpa") -> ModelComponent:
        return ModelComponent(
            COMPONENT,
            self._signature,
            self._called,
            self._called,
            self._sample,
            self._texts.inputs,
            self._declaration.postprocess,
            self._scales,
            self._call,
            INNER,
        )

    def _without_quantisers(self, network: nn.Module) -> tuple[nn.Module, dict[str, Scales]]:
        """A network with fake quantisation as a plain one, with what it learnt; any other as it is."""
        if not is_fake_quantised(network):
            return network, {}
        inputs = self._drawn(distinct_sizes(self._declaration.axes))
        remedy = "Return it as it was trained, from torch.ao.quantization.prepare_qat."
        with users_code("the fake-quantised network does not run", remedy, passing=(TorchliftError,)):
            called = Called(network, self._binding)
            return take_scales(network, lambda: called.returned(*inputs))

    def _try(self, network: nn.Module) -> None:
        with torch.inference_mode():
            Called(network, self._binding).returned(*self._drawn(distinct_sizes(self._declaration.axes)))

    def _drawn(self, sizes: Mapping[str, int], seed: int = 0) -> tuple[Tensor, ...]:
        feeds = self._sample(sizes, np.random.default_rng(seed))
        return tuple(torch.from_numpy(feeds[spec.name]) for spec in self._declaration.inputs)

    def _sample(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        sample = self._declaration.sample
        if sample is not None and not isinstance(sample, BoundsSampler):
            remedy = "It takes axis sizes and a numpy Generator, and returns input name -> array."
            with users_code(f"sample= failed at {dict(sizes)}", remedy, passing=(MemoryError,)):
                return {name: np.asarray(array) for name, array in sample(sizes, rng).items()}
        feeds = (sample or BoundsSampler(self._declaration.inputs))(sizes, rng)
        self._texts.fill(self._declaration, feeds, rng)
        return feeds

    def _with_outputs(self) -> tuple[Signature, Called, Call, list[tuple[object, ...]]]:
        """The signature with outputs as several runs tell them, the network that returns just these, how it is called,
        and a summary of what it answered.
        """
        axes = self._declaration.axes
        called = Called(self._network, self._binding)
        asked = probes(axes, distinct_sizes(axes))
        returned = self._run(called, asked[0])
        leaves = self._tensors(leaves_of(returned))
        names, positions = self._chosen(leaves)
        runs = [(asked[0], [leaves[i][1] for i in positions])]
        for seed, sizes in enumerate(asked, 1):  # the first sizes again, with other values
            found = leaves_of(self._run(called, sizes, seed))
            if len(found) != len(leaves):
                raise ModuleSourceError(
                    f"the network returns {len(leaves)} tensors at {dict(asked[0])}, and {len(found)} at {dict(sizes)}",
                    remedy="Let it return the same outputs at all sizes.",
                )
            runs.append((sizes, [found[i][1] for i in positions]))
        outputs = tuple(_spec(name, [(s, tensors[i]) for s, tensors in runs]) for i, name in enumerate(names))
        by_position = dict(zip(positions, names, strict=True))
        structure = structure_of(returned, (by_position.get(i) for i in range(len(leaves))))
        summaries = [_summary(tensor) for _, tensors in runs[:2] for tensor in tensors]
        binding = self._binding
        call = Call(binding.parameters, structure, constants_of(self._network, binding), dict(binding.renamed))
        signature = Signature(self._declaration.inputs, outputs, axes)
        return signature, Called(self._network, self._binding, positions), call, summaries

    def _run(self, called: Called, sizes: Mapping[str, int], seed: int = 0) -> Any:
        tensors = self._drawn(sizes, seed)
        shapes = ", ".join(f"{s.name} {list(t.shape)}" for s, t in zip(self._declaration.inputs, tensors, strict=True))
        problem, remedy = f"the network does not run on {shapes}", _FIRST
        if sizes != distinct_sizes(self._declaration.axes):
            problem = f"the network does not run at {at(sizes)}"
            remedy = narrower(self._declaration.axes, sizes)
        with users_code(problem, remedy), torch.inference_mode():
            return called.returned(*tensors)

    def _tensors(self, leaves: Items) -> Items:
        """The leaves with names that differ from each other and from those of inputs, where they have none."""
        taken = {spec.name for spec in self._declaration.inputs}
        named: Items = []
        for path, leaf in leaves:
            first = path.partition(".")[0]
            name = f"output{path}" if first.isdecimal() else path or "output0"
            while name in taken:
                name = f"{name}_out"
            taken.add(name)
            named.append((name, leaf))
        return named

    def _chosen(self, leaves: Items) -> tuple[list[str], list[int]]:
        """The names of the outputs, and their positions among the leaves: those that are declared, else all tensors.

        Declared names that are all keys choose; others name the tensors in their order.
        """
        declared, found = self._declaration.outputs, [name for name, _ in leaves]
        tensors = [i for i, (_, leaf) in enumerate(leaves) if isinstance(leaf, Tensor)]
        if declared and {*declared} <= {*found}:
            names, positions = list(declared), [found.index(name) for name in declared]
        else:
            names, positions = [*declared] or [found[i] for i in tensors], tensors
            if len(names) != len(tensors):
                raise ModuleSourceError(
                    f"the network returns {len(tensors)} tensors ({', '.join(found[i] for i in tensors)}), "
                    f"{len(names)} outputs are declared: {', '.join(names)}",
                    remedy="Name every tensor that forward returns, or choose some of them by these names.",
                )
            for name, leaf in leaves:
                if not isinstance(leaf, Tensor):
                    self.notes += (f"output {name} is a {type(leaf).__name__}, which holds no tensor, and is left out",)
        if not positions:
            kinds = ", ".join(dict.fromkeys(type(leaf).__name__ for _, leaf in leaves)) or "None"
            raise ModuleSourceError(
                f"the network returns no tensor, but {kinds}", remedy="Let forward return a tensor, or several."
            )
        for name, position in zip(names, positions, strict=True):
            _require_kind(name, leaves[position][1])
        return names, positions

    def _check_processing(self) -> None:
        try:
            completed_inputs(self._signature, self._texts.inputs)
            completed_answers(self._signature, self._declaration.postprocess)
        except SignatureError as error:
            raise ModuleSourceError(f"what is declared does not fit: {error.message}", remedy=error.remedy) from error


def _require_kind(name: str, leaf: Any) -> None:
    """Raise ModuleSourceError for an output that is no tensor of a dtype that a bundle has."""
    if not isinstance(leaf, Tensor):
        raise ModuleSourceError(
            f"output {name} is a {type(leaf).__name__}, and no tensor", remedy="Choose other outputs: outputs=[...]."
        )
    if leaf.is_complex():
        raise ModuleSourceError(
            f"output {name} is complex ({leaf.dtype}), and runtimes have no complex numbers",
            remedy="Return torch.view_as_real(x), or its real and imaginary part.",
        )
    if str(leaf.dtype).removeprefix("torch.") not in DTYPES:
        raise ModuleSourceError(
            f"output {name} is {leaf.dtype}, which is not supported",
            remedy=f"Return one of {', '.join(sorted(DTYPES))}.",
        )


def _spec(name: str, runs: Sequence[tuple[Mapping[str, int], Tensor]]) -> TensorSpec:
    """An output as its tensors in several runs tell it. Raises ModuleSourceError where its rank or dtype varies."""
    kinds = {(str(tensor.dtype).removeprefix("torch."), tensor.ndim) for _, tensor in runs}
    if len(kinds) > 1:
        said = ", ".join(f"{dtype} with {rank} dimensions" for dtype, rank in sorted(kinds))
        raise ModuleSourceError(
            f"output {name} is of different kinds at different sizes: {said}",
            remedy="Let it have the same dtype and the same number of dimensions at all sizes.",
        )
    dtype, rank = next(iter(kinds))
    dims: list[Dim] = [dimension([(sizes, int(tensor.shape[i])) for sizes, tensor in runs]) for i in range(rank)]
    return TensorSpec(name, dtype, tuple(dims))


def _code(network: nn.Module) -> list[str]:
    """The SHA-256 of every file that defines a module of the network."""
    modules = {type(module).__module__ for module in network.modules()}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return sorted(sha256(Path(file)) for file in files if file and Path(file).is_file())


def _source(function: Callable | None) -> str:
    """The text of a function; nothing where it has none, as of a callable object of the user's."""
    if isinstance(function, BoundsSampler):
        return str(function)
    try:
        return inspect.getsource(function) if function else ""
    except (OSError, TypeError):
        return ""


def _summary(answer: Tensor) -> tuple[object, ...]:
    """An answer's dtype, shape, length and direction, rounded so that another processor's last digits do not count.

    It stands for what no weight tells: helpers in other files, and plain attributes.
    """
    values = answer.double().flatten()
    ramp = torch.linspace(1, 2, len(values), dtype=torch.float64)
    length, direction = values.norm(), values @ ramp / (values.norm() * ramp.norm())
    return str(answer.dtype), tuple(answer.shape), f"{length:.3e}", round(float(direction), 4) + 0.0


def _digest(network: nn.Module) -> str:
    """The hash of all weights and buffers, also of buffers that the state_dict leaves out."""
    digest = hashlib.sha256()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
