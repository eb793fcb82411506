"""The tools that the zoo goes through. Each takes a case and a folder, and says how it went.

optimum-onnx is left out: it takes folders of published architectures with a configuration each, no modules, and its
releases ask for an older transformers than torchlift's.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import torchlift as tl
from torchlift.backends import module_runtime
from zoo_case import Case, Feeds
from zoo_check import Run, first_difference, one_line, unsound

Status = Literal["right", "refused", "wrong", "traceback", "crashed"]
"""``right``: shipped, and right at fresh sizes. ``refused``: an error that the tool raises on purpose; of a plain
export any exception. ``wrong``: shipped, and answers otherwise or does not run at other sizes. ``traceback``: an
exception that is no TorchliftError. ``crashed``: the process ended, or gave no answer in time.
"""


@dataclass(frozen=True)
class Outcome:
    """How one case went. ``reason`` says why it is not right, or what a right one needs."""

    status: Status
    reason: str = ""


def judged(case: Case, run: Run) -> Outcome:
    """Right or wrong, of what was shipped."""
    wrong = first_difference(case, run)
    return Outcome("wrong", wrong) if wrong else Outcome("right")


def eager(case: Case, folder: Path) -> Outcome:
    """PyTorch by itself: whether the case is sound."""
    try:
        wrong = unsound(case)
    except Exception as error:
        return Outcome("traceback", f"{one_line(error)} ({_where(error)})")
    return Outcome("wrong", wrong) if wrong else Outcome("right")


def plain(case: Case, folder: Path) -> Outcome:
    """``torch.onnx.export(dynamo=True)`` with names for the axes, as its documentation has them.

    Ranges (``torch.export.Dim``) are not tried: where names are refused, they give a file of one size.
    """
    file = folder / "model.onnx"
    try:
        with quiet():
            _plain_export(case, file)
    except Exception as error:
        return Outcome("refused", _innermost(error))
    try:
        run = OnnxFile(file, [spec.name for spec in case.inputs])
    except Exception as error:
        return Outcome("wrong", f"ONNX Runtime does not load the file: {one_line(error)}")
    return judged(case, run)


def _plain_export(case: Case, file: Path) -> None:
    network = case.network()
    feeds = case.draw(case.typical, 0)
    shapes = {spec.name: {i: d for i, d in enumerate(spec.shape) if isinstance(d, str)} or None for spec in case.inputs}
    args, kwargs = case.arguments(network, {name: torch.from_numpy(array) for name, array in feeds.items()})
    by_position, by_name = case.arguments(network, shapes)
    if args and isinstance(args[-1], dict):
        args = (*args, {})  # a dict at the end would be taken for keywords
    torch.onnx.export(
        network,
        args,
        file,
        kwargs=kwargs or None,
        dynamic_shapes=by_name or _starred(network, by_position),
        dynamo=True,
        verbose=False,
    )


def _starred(network: torch.nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shapes by position, where those of ``*args`` are one entry, as dynamic_shapes has them."""
    if isinstance(network, torch.jit.ScriptModule):
        return shapes
    kinds = [p.kind for p in inspect.signature(network.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:first], shapes[first:])


class OnnxFile:
    """An ONNX file in ONNX Runtime on the CPU. Inputs are found by name, others by position."""

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        there = [node.name for node in self._session.get_inputs()]
        if set(there) <= set(names):
            self._sources = dict(zip(there, there, strict=True))
        elif len(there) == len(names):
            self._sources = dict(zip(there, names, strict=True))
        else:
            raise ValueError(f"the inputs of the file are {', '.join(there)}, not {', '.join(names)}")

    def __call__(self, feeds: Feeds) -> Sequence[np.ndarray]:
        return self._session.run(None, {name: feeds[source] for name, source in self._sources.items()})


def torchlift(case: Case, folder: Path) -> Outcome:
    """torchlift: the FP32 graph of a bundle, or the program for PyTorch where a network has no ONNX form."""
    try:
        bundle = tl.export(case.network(), folder / "bundle", **declared(case))
        run, reason = _shipped(bundle)
    except tl.TorchliftError as error:
        return Outcome("refused", one_line(error))
    except Exception as error:
        return Outcome("traceback", f"{one_line(error)} ({_where(error)})")
    outcome = judged(case, run)
    return Outcome("right", reason) if outcome.status == "right" else outcome


def declared(case: Case) -> dict[str, Any]:
    """What the user of a case would tell torchlift."""
    draws = case.sample is not None or any(spec.mask for spec in case.inputs)
    return {
        "inputs": [tl.TensorSpec(spec.name, spec.dtype, spec.shape, spec.bounds) for spec in case.inputs],
        "axes": [tl.Axis(a.name, a.min, a.opt, a.max, step=a.step) for a in case.axes],
        **({"sample": case.drawn} if draws else {}),
    }


def _shipped(bundle: tl.Bundle) -> tuple[Run, str]:
    """What a bundle holds, and why it is no ONNX graph."""
    (component,) = bundle.manifest.components
    signature = component.signature
    if component.model:
        return OnnxFile(bundle.path / component.model, signature.input_names), ""
    program = bundle.manifest.graph(component.name, module_runtime().program.name)
    session = module_runtime().open_program(bundle.path / program.model, signature)

    def run(feeds: Feeds) -> Sequence[np.ndarray]:
        answers = session.run(feeds)
        return [answers[name] for name in signature.output_names]

    return run, f"a program for PyTorch alone: {component.failure}"


TOOLS: Mapping[str, Callable[[Case, Path], Outcome]] = {"eager": eager, "plain": plain, "torchlift": torchlift}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Logs and warnings of exporters are not shown: what failed is an exception."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
