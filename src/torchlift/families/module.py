"""Any nn.Module, named as ``path/to/file.py:function``; the function returns it, or it with example inputs."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from torchlift.checksums import key_of, sha256
from torchlift.declare.check import completed_answers, completed_inputs
from torchlift.declare.module import ATTRIBUTE, ModuleDeclaration
from torchlift.errors import ModuleSourceError, SignatureError, TorchliftError
from torchlift.families.base import Family, LoadOptions, Model, ModelComponent
from torchlift.families.fake_quant import is_fake_quantised, take_scales
from torchlift.families.module_texts import ModuleTexts
from torchlift.families.samples import BoundsSampler
from torchlift.families.tracing import distinct_sizes
from torchlift.graph.scales import Scales, to_plain
from torchlift.signature import BATCH, Axis, Signature, TensorSpec

COMPONENT = "model"

_EXAMPLE_BATCH = (1, 8, 64)
"""The range of the batch axis for a module that only comes with example inputs."""

_STEPS = (1, 2, 3, 4, -1, -2, -3, -4)
"""How far from the first sizes the network is run a second time, by preference."""


class ModuleFamily(Family):
    """A user's own network."""

    name = "module"

    def load(self, source: str, options: LoadOptions) -> Model:
        """Import the file, call the function, find the outputs' shapes. Raises ModuleSourceError, SignatureError."""
        file, function = _split(source)
        builder = _import(file, function)
        torch.manual_seed(0)
        remedy = "It is called without arguments and must return an nn.Module."
        with _users_code(f"{function} in {file.name} failed", remedy):
            built = builder()
        network, examples = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
        if not isinstance(network, nn.Module):
            raise ModuleSourceError(
                f"{function} in {file.name} returned {type(network).__name__}",
                remedy="It must return an nn.Module, or a tuple of one and its example inputs.",
            )
        network = network.cpu().float().eval().requires_grad_(False)
        declaration = getattr(builder, ATTRIBUTE, None) or _declaration_of(network, examples, function)
        options.check_axes({COMPONENT: [axis.name for axis in declaration.axes]})
        axes = tuple(options.axis(COMPONENT, axis) for axis in declaration.axes)
        return _UserModel(file, function, network, replace(declaration, axes=axes))


def _split(source: str) -> tuple[Path, str]:
    path, _, function = source.rpartition(":")
    if not path or not function.isidentifier():
        raise ModuleSourceError(f"{source!r} names no function", remedy="Write path/to/file.py:function.")
    file = Path(path)
    if not file.is_file():
        raise ModuleSourceError(f"{file} does not exist", remedy="Write path/to/file.py:function.")
    return file, function


def _import(file: Path, function: str) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ModuleSourceError(f"{file} is not a Python file", remedy="Write path/to/file.py:function.")
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    sys.modules[file.stem] = module
    with _users_code(f"{file} cannot be imported", "Run it with python to see where."):
        spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        functions = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise ModuleSourceError(
            f"{file} has no function {function!r}", remedy=f"Its functions are {', '.join(functions) or 'none'}."
        )
    return getattr(module, function)


@contextlib.contextmanager
def _users_code(problem: str, remedy: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Whatever the user's code raises is a ModuleSourceError, also what would end this process: with a sys.exit(0) a
    command would seem to have done its work. Ctrl-C stays what it is, and so does what is ``passing``.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except passing:
        raise
    except BaseException as error:
        raise ModuleSourceError(f"{problem}: {type(error).__name__}: {error}", remedy=remedy) from error


def _declaration_of(network: nn.Module, examples: Any, function: str) -> ModuleDeclaration:
    """What example inputs tell: names are forward's parameters; the first dimension, where all share it, is a batch."""
    names = [
        p.name
        for p in inspect.signature(network.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if examples is None:
        raise ModuleSourceError(
            f"{function} returns a network without saying what it takes",
            remedy="Decorate it with torchlift.module(inputs=..., outputs=..., axes=...), or return (network, inputs).",
        )
    if not isinstance(examples, (Mapping, tuple, list)):
        examples = (examples,)
    given = examples if isinstance(examples, Mapping) else dict(zip(names, examples, strict=False))
    values = {name: given[name] for name in names if name in given}
    if len(values) != len(examples) or list(values) != names[: len(values)]:
        raise ModuleSourceError(
            f"the example inputs ({', '.join(given) if isinstance(examples, Mapping) else len(examples)}) do not fit "
            f"forward({', '.join(names)})",
            remedy="Give one for each of its parameters, from the first on.",
        )
    for name, value in values.items():
        if not isinstance(value, torch.Tensor):
            raise ModuleSourceError(
                f"the example input {name} is the Python value {value!r}: it would be baked into the graph",
                remedy="Pass a tensor, for example torch.tensor(...), and compute with it as one.",
            )
    firsts = {v.shape[0] if v.ndim else None for v in values.values()}
    batched = len(firsts) == 1 and None not in firsts
    inputs = tuple(
        TensorSpec(
            name,
            str(value.dtype).removeprefix("torch."),
            (BATCH, *value.shape[1:]) if batched else tuple(value.shape),
        )
        for name, value in values.items()
    )
    axes = (Axis(BATCH, *_EXAMPLE_BATCH),) if batched else ()
    return ModuleDeclaration(inputs, (), axes, sample=_alike(inputs, values))


def _alike(specs: Sequence[TensorSpec], examples: Mapping[str, torch.Tensor]) -> BoundsSampler | None:
    """Draws inputs like the examples: integers from their least to their greatest. Others may be served, so that these
    are no bounds of the signature. None where all are of real numbers, which need no limits.
    """
    whole = {name: value for name, value in examples.items() if not value.is_floating_point()}
    if not whole:
        return None
    bounds = {name: (int(value.min()), int(value.max()) + 1) for name, value in whole.items()}
    return BoundsSampler(tuple(replace(spec, bounds=bounds.get(spec.name)) for spec in specs))


class _UserModel(Model):
    family = ModuleFamily.name
    component_names = (COMPONENT,)

    def __init__(self, file: Path, function: str, network: nn.Module, declaration: ModuleDeclaration) -> None:
        self.name = f"{file.stem}.{function}"
        self._texts = ModuleTexts.read(file.parent, declaration.preprocess)
        self.assets = self._texts.assets
        self.settings = {}
        declaration = replace(declaration, inputs=tuple(self._texts.bounded(spec) for spec in declaration.inputs))
        Signature(declaration.inputs, (), declaration.axes)  # refuses what cannot be drawn before it is
        self._network = network
        self._declaration = declaration
        self._scales = self._take_scales()
        self._signature, answers = self._with_outputs()
        self._check_processing()
        self.key = key_of(
            sha256(file),
            function,
            _code(network),
            _source(declaration.sample),
            _digest(self._network),
            to_plain(self._scales),
            answers,
            declaration.inputs,
            declaration.outputs,
            declaration.axes,
            self._texts.inputs,
            sorted((role, hashlib.sha256(content).hexdigest()) for role, (_, content) in self.assets.items()),
            declaration.postprocess,
        )

    def component(self, name: str, *, attention: str = "sdpa") -> ModelComponent:
        return ModelComponent(
            COMPONENT,
            self._signature,
            self._network,
            self._network,
            self._sample,
            self._texts.inputs,
            self._declaration.postprocess,
            self._scales,
        )

    def _take_scales(self) -> dict[str, Scales]:
        """What fake quantisation left in the network, which becomes a plain one."""
        if not is_fake_quantised(self._network):
            return {}
        feeds = self._sample(distinct_sizes(self._declaration.axes), np.random.default_rng(0))
        inputs = [torch.from_numpy(feeds[spec.name]) for spec in self._declaration.inputs]
        remedy = "Return it as it was trained, from torch.ao.quantization.prepare_qat."
        with _users_code("the fake-quantised network does not run", remedy, passing=(TorchliftError,)):
            self._network, scales = take_scales(self._network, inputs)
        return scales

    def _sample(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        if self._declaration.sample is not None:
            remedy = "It takes axis sizes and a numpy Generator, and returns input name -> array."
            with _users_code(f"sample= failed at {dict(sizes)}", remedy, passing=(MemoryError,)):
                drawn = self._declaration.sample(sizes, rng)
                return {name: np.asarray(array) for name, array in drawn.items()}
        feeds = BoundsSampler(self._declaration.inputs)(sizes, rng)
        self._texts.fill(self._declaration, feeds, rng)
        return feeds

    def _with_outputs(self) -> tuple[Signature, list[tuple[object, ...]]]:
        """The signature, whose outputs two runs tell, and what they answered."""
        declaration = self._declaration
        probe = distinct_sizes(declaration.axes)
        other = _elsewhere(declaration.axes, probe)
        runs = [self._probe(sizes) for sizes in (probe, other)]
        names = declaration.outputs or tuple(f"output{i}" for i in range(len(runs[0])))
        if len(names) != len(runs[0]):
            raise ModuleSourceError(
                f"the network returns {len(runs[0])} tensors, {len(names)} outputs are declared: {', '.join(names)}",
                remedy="Name every tensor that forward returns.",
            )
        outputs = tuple(
            TensorSpec(name, str(a.dtype).removeprefix("torch."), _dims(a.shape, b.shape, probe, other))
            for name, a, b in zip(names, *runs, strict=True)
        )
        answers = [_summary(tensor) for run in runs for tensor in run]
        return Signature(declaration.inputs, outputs, declaration.axes), answers

    def _probe(self, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
        feeds = self._sample(sizes, np.random.default_rng(0))
        shapes = ", ".join(f"{n} {list(a.shape)}" for n, a in feeds.items())
        remedy = "Correct the declared shapes, ranges or bounds, or declare sample= to draw realistic inputs."
        with _users_code(f"the network does not run on {shapes}", remedy), torch.inference_mode():
            answers = self._network(*(torch.from_numpy(feeds[s.name]) for s in self._declaration.inputs))
        tensors = answers if isinstance(answers, tuple) else (answers,)
        for tensor in tensors:
            if not isinstance(tensor, torch.Tensor):
                raise ModuleSourceError(
                    f"the network returns {type(tensor).__name__} where a tensor is expected",
                    remedy="Wrap it in a module whose forward returns a tensor or a tuple of tensors.",
                )
        return tensors

    def _check_processing(self) -> None:
        try:
            completed_inputs(self._signature, self._texts.inputs)
            completed_answers(self._signature, self._declaration.postprocess)
        except SignatureError as error:
            raise ModuleSourceError(f"what is declared does not fit: {error.message}", remedy=error.remedy) from error


def _elsewhere(axes: Iterable[Axis], probe: Mapping[str, int]) -> dict[str, int]:
    """Other sizes than ``probe`` where the ranges allow; axes go by different steps as far as they can, so that an axis
    plus a constant is not taken for another axis.
    """
    steps: dict[str, int] = {}
    for axis in axes:
        size = probe[axis.name]
        possible = [step for step in _STEPS if axis.min <= size + step <= axis.max]
        good = [step for step in possible if step not in steps.values() and size + step > 1]
        steps[axis.name] = next(iter(good or possible), 0)
    return {name: probe[name] + step for name, step in steps.items()}


def _dims(
    first: torch.Size, second: torch.Size, probe: Mapping[str, int], other: Mapping[str, int]
) -> tuple[int | str | None, ...]:
    """Dimensions from two runs: constant, an axis that follows the same two sizes, or computed (None), as of what is
    empty in both.
    """
    dims: list[int | str | None] = []
    for a, b in zip(first, second, strict=True):
        axis = next((n for n in probe if (probe[n], other[n]) == (a, b) and a != b), None)
        dims.append(int(a) if a == b > 0 else axis)
    return tuple(dims)


def _code(network: nn.Module) -> list[str]:
    """The SHA-256 of every file that defines a module of the network."""
    modules = {type(module).__module__ for module in network.modules()}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return sorted(sha256(Path(file)) for file in files if file)


def _source(function: Callable | None) -> str:
    """The text of a function; nothing where it has none, as of a callable object of the user's."""
    if isinstance(function, BoundsSampler):
        return str(function)
    try:
        return inspect.getsource(function) if function else ""
    except (OSError, TypeError):
        return ""


def _summary(answer: torch.Tensor) -> tuple[object, ...]:
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
