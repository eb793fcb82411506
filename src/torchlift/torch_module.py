"""A bundle as an nn.Module, in the place of the network that was shipped: tensors of torch in and out."""

from __future__ import annotations

import threading
import warnings
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from torchlift.errors import BundleError, InputError, SignatureError
from torchlift.manifest import Component
from torchlift.pipelines import Pipeline
from torchlift.pipelines.calls import RETURN_DICT, Outputs, call_of, inputs_of, returned
from torchlift.pipelines.columns import ArrayColumn, Prepared
from torchlift.pipelines.run import Batching, Run
from torchlift.signature import TensorSpec

Tensors = dict[str, Tensor]


class BundleModule(nn.Module):
    """The variant of a component that serves, called as the network itself is; see :func:`torchlift.as_module`.

    It has no parameters, computes no gradients, and always evaluates. Threads may share it. ``device`` is where the
    variant runs.
    """

    def __init__(self, pipeline: Pipeline, component: Component) -> None:
        """Opens the variant. Raises what that raises."""
        super().__init__()
        self._pipeline = pipeline
        self._component = component
        self._call = call_of(component)
        self._specs = {spec.name: spec for spec in component.signature.inputs}
        self._session = pipeline.session(component.name)
        on = pipeline.options.on
        self.device = torch.device("cuda", on.device) if self._session.on_device else torch.device("cpu")
        self._turn = threading.Lock()
        self._stream: Any = None
        self._warned = False
        super().train(False)

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """What the network returns: a tensor, a tuple, or :class:`~torchlift.pipelines.calls.Outputs`, nested as there.

        Tensors lie on the device of the first that was given. Any number of rows is split into batches, as
        :func:`torchlift.open` does. Raises InputError for arguments that the network did not have when it was shipped,
        and for tensors that require a gradient where gradients are computed; SignatureError for tensors that do not
        fit; BundleError once it is closed.
        """
        found = inputs_of(self._call, [*self._specs], args, keywords, lambda value: isinstance(value, Tensor))
        missing = [name for name in self._specs if name not in found]
        if missing:
            raise SignatureError(
                f"inputs do not fit: missing {', '.join(missing)}", remedy=f"The inputs are {', '.join(self._specs)}."
            )
        tensors = {name: self._tensor(self._specs[name], value) for name, value in found.items()}
        place = next((tensor.device for tensor in tensors.values()), self.device)
        on_device = self._session.on_device and place == self.device
        outputs = self._run_there(tensors) if on_device else self._run_copied(tensors, place)
        result = returned(self._call.returns, outputs)
        return result.to_tuple() if isinstance(result, Outputs) and keywords.get(RETURN_DICT) is False else result

    def _tensor(self, spec: TensorSpec, value: Any) -> Tensor:
        """An argument as a tensor of the input's dtype, without a gradient."""
        if isinstance(value, (bool, int, float)):
            value = torch.tensor(value, dtype=getattr(torch, spec.dtype))
        if not isinstance(value, Tensor):
            raise InputError(f"input {spec.name} is a {type(value).__name__}", remedy="Give a tensor.")
        if value.requires_grad and torch.is_grad_enabled():
            raise InputError(
                f"input {spec.name} requires a gradient, and a bundle computes none",
                remedy="Call it under torch.no_grad(), or give input.detach().",
            )
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype != spec.dtype:
            raise SignatureError(
                f"input {spec.name} is {dtype}{list(value.shape)}",
                remedy=f"It must be {spec}: give input.to(torch.{spec.dtype}). A variant casts to what it computes in.",
            )
        return value.detach()

    def _run_copied(self, tensors: Tensors, place: torch.device) -> Tensors:
        """Through memory of the host: shared with tensors that lie there in C order, else copied."""
        arrays = {name: tensor.cpu().contiguous().numpy() for name, tensor in tensors.items()}
        name = self._component.name
        session = self._pipeline.session(name)  # raises where it is closed
        if self._fits(arrays):
            outputs = session.run(arrays)
        else:
            outputs = self._pipeline.run(name, self._pipeline.preparer(name).prepare(arrays))
        return {name: torch.from_numpy(array).to(place) for name, array in outputs.items()}

    def _fits(self, arrays: dict[str, Any]) -> bool:
        """Whether the session takes arrays as one batch. Those that do not fit at all are told by what splits them."""
        try:
            return not self._session.records and self._session.fits(arrays)
        except SignatureError:
            return False

    def _run_there(self, tensors: Tensors) -> Tensors:
        """On the session's own device, without a copy through the host. What a session gives holds until its next call,
        so it is copied before another thread may call.
        """
        self._pipeline.session(self._component.name)  # raises where it is closed
        signature = self._component.signature
        columns = [ArrayColumn(spec, _of_rank(spec, tensors[spec.name])) for spec in signature.inputs]
        runs = Batching(self._session, signature, together=True).runs(Prepared.of(columns))
        parts: list[Tensors] = []
        with self._turn:
            self._follow()
            for run in runs:
                given = {name: _rows(spec, tensors[name], run) for name, spec in self._specs.items()}
                outputs = self._session.run_on_device(given)
                parts.append({name: torch.from_dlpack(output).clone() for name, output in outputs.items()})
        return {spec.name: _joined(spec, runs, [part[spec.name] for part in parts]) for spec in signature.outputs}

    def _follow(self) -> None:
        """Wait for the copies of the call before, where that was on another stream."""
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device)
            if self._stream is not None and self._stream != stream:
                self._stream.synchronize()
            self._stream = stream

    def train(self, mode: bool = True) -> BundleModule:
        """Stays in evaluation: that is what was exported. A network that holds it may train what else it has."""
        if mode and not self._warned:
            self._warned = True
            warnings.warn(f"{self._component.name} of a torchlift bundle stays in evaluation", stacklevel=2)
        return self

    def close(self) -> None:
        """Free what the variant holds. Later calls raise BundleError."""
        self._pipeline.close()

    def extra_repr(self) -> str:
        """The component, and what it runs on."""
        return f"{self._component.name} by {self._session.runtime}"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise BundleError(
            f"{self._component.name} is an open session, which can be neither copied nor pickled",
            remedy=f"Open it where it is needed: torchlift.as_module({str(self._pipeline.bundle.path)!r}).",
        )


def open_module(pipeline: Pipeline, component: str | None) -> BundleModule:
    """A component of an open bundle as a module. Raises BundleError where it is not said which of several."""
    names = [found.name for found in pipeline.bundle.manifest.components]
    if component is None and len(names) > 1:
        raise BundleError(
            f"{pipeline.bundle.path} has the components {', '.join(names)}",
            remedy=f"Say which is meant: component={names[0]}.",
        )
    return BundleModule(pipeline, pipeline.bundle.manifest.component(component or names[0]))


def _of_rank(spec: TensorSpec, tensor: Tensor) -> Any:
    """The tensor. Raises SignatureError where it has another number of dimensions than the input."""
    if tensor.ndim != len(spec.shape):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise SignatureError(f"input {spec.name} is {dtype}{list(tensor.shape)}", remedy=f"It must be {spec}.")
    return tensor


def _rows(spec: TensorSpec, tensor: Tensor, run: Run) -> Tensor:
    """The rows of a run in C order, the last repeated until the batch is full."""
    position = spec.batch_position
    if position is None or not run.size:
        return tensor.contiguous()
    rows = tensor.narrow(position, int(run.rows[0]), len(run.rows))
    missing = run.size - len(run.rows)
    if missing > 0:
        last = rows.narrow(position, len(run.rows) - 1, 1)
        rows = torch.cat([rows, *[last] * missing], position)
    return rows.contiguous()


def _joined(spec: TensorSpec, runs: list[Run], parts: list[Tensor]) -> Tensor:
    """An output of all runs, without the rows that filled them up."""
    position = spec.batch_position
    if position is None or not runs[0].size:
        return parts[0]
    cut = [part.narrow(position, 0, len(run.rows)) for run, part in zip(runs, parts, strict=True)]
    return cut[0] if len(cut) == 1 else torch.cat(cut, position)
