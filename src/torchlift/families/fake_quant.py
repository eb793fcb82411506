"""Splits checkpoints and networks that were trained with fake quantisation into plain weights and learnt scales.

Names of two libraries are known: torch.ao's FakeQuantize in eager mode (``X.weight_fake_quant.*``,
``X.activation_post_process.*``), and modelopt's TensorQuantizer (``X.input_quantizer._amax``,
``X.weight_quantizer._amax``).
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from torchlift.errors import CheckpointError
from torchlift.graph.scales import Range, Scales

INT8_MAX = 127
"""The largest int8. A symmetric scale times this is the largest magnitude that is covered."""

_TORCH_AO = re.compile(r"(?:(.*?)\.)?(weight_fake_quant|activation_post_process)\.(.+)")
_MODELOPT = re.compile(r"(?:(.*?)\.)?(input|weight|output|\w+_bmm|softmax)_quantizer\.(.+)")
_CHANGES_ANSWERS = "_pre_quant_scale"
"""modelopt's factor of smoothing. The input is multiplied by it, even where nothing is quantised."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OWNED = ("weight_fake_quant", "activation_post_process")
_UINT8, _INT8 = (0, 255), (-128, 127)


def split_scales(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Scales]]:
    """Split a state_dict into its weights, which stay as they are, and the scales by the path of their module.

    - A quantiser that was switched off or saw no data is left out.
    - torch.ao observes the output of a module, modelopt its input.
    - A range is what the observer saw. Where the scale was learnt, or no observer is stored, the range follows from the
      scale and the zero point, for uint8 (for int8 where the zero point is negative).
    - Quantisers of the products in an attention are left out, since these stay in floating point.
    - Observers of torch.ao's graph mode (``activation_post_process_0``) are left out, since their names do not tell
      which tensor they observe.

    Raises CheckpointError for scales that cannot be kept.
    """
    weights: dict[str, Tensor] = {}
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if match := _TORCH_AO.fullmatch(name) or _MODELOPT.fullmatch(name):
            found.setdefault((match[1] or "", match[2]), {})[match[3]] = tensor
        elif not re.match(r"(?:.*\.)?activation_post_process_\d+\.", name):
            weights[name] = tensor
    scales: dict[str, Scales] = {}
    for (path, role), values in found.items():
        read = _READERS.get(role)
        known = read(path, values) if read else None
        if known is not None:
            scales[path] = _joined(scales.get(path, Scales()), known)
    return weights, scales


def is_fake_quantised(network: nn.Module) -> bool:
    """Whether a network has fake quantisation of torch.ao."""
    return any(_is_quantiser(module) for module in network.modules())


def take_scales(network: nn.Module, run: Callable[[], object]) -> tuple[nn.Module, dict[str, Scales]]:
    """Turn a network with fake quantisation of torch.ao into a float network, in place; returns it with its scales.

    Quantised layers become plain layers. A fused layer becomes a Sequential with the layer at ``.0`` and its activation
    at ``.1``. Its batch normalisation is folded into the weights, to which its scales belong.

    Before, ``run`` runs the network once, to find which layer reads which quantised tensor. So the range of an
    input is known even where it is not the output of a module. Raises CheckpointError for scales that cannot be kept.
    """
    quantisers = {path: module for path, module in network.named_modules() if _is_quantiser(module)}
    for path, module in quantisers.items():
        module.disable_observer()
        _check_kind(path, module)
    _, scales = split_scales({f"{p}.{k}": v for p, m in _hosts(network).items() for k, v in _own_state(m).items()})
    for path, taken in _inputs(network, quantisers, run).items():
        scales[path] = replace(scales.get(path, Scales()), input=taken)
    network, scales = _to_float(network, scales)
    return network, fold_norms(network, scales)


def modules_of(network: nn.Module, scales: Mapping[str, Scales]) -> dict[str, Scales]:
    """The scales whose path is a module of ``network``."""
    paths = {path for path, _ in network.named_modules()}
    return {path: known for path, known in scales.items() if path in paths}


def fold_norms(network: nn.Module, scales: Mapping[str, Scales]) -> dict[str, Scales]:
    """The scales after batch normalisations are folded into the convolutions before them, as exporters do.

    The normalisation of a convolution is the module that its parent defines next. Some exporters name the folded node
    after the convolution, others after the normalisation. So both paths get the convolution's input, the new weight and
    the normalisation's output.
    """
    folded = dict(scales)
    for parent, module in network.named_modules():
        for (name, first), (after, norm) in itertools.pairwise(module.named_children()):
            paths = [f"{parent}.{child}" if parent else child for child in (name, after)]
            if isinstance(first, _CONVOLUTIONS) and isinstance(norm, _NORMS) and any(p in scales for p in paths):
                before, behind = (scales.get(path, Scales()) for path in paths)
                joined = replace(before.folded(_factor(norm)), output=behind.output)
                folded |= dict.fromkeys(paths, joined)
    return folded


def _factor(norm: nn.Module) -> np.ndarray:
    """The factor by which a batch normalisation multiplies each channel, float32 [channels]."""
    factor = torch.rsqrt(norm.running_var + norm.eps)
    factor = factor if norm.weight is None else factor * norm.weight
    return factor.detach().float().numpy()


# State dicts ----------------------------------------------------------------------------------------------------------


def _torch_weight(path: str, values: Mapping[str, Tensor]) -> Scales | None:
    if _is_off(values) or "scale" not in values:
        return None
    if "zero_point" in values and values["zero_point"].count_nonzero():
        raise CheckpointError(
            f"{path}.weight_fake_quant has zero points other than 0",
            remedy="Weights are quantised symmetrically: train with a symmetric qscheme for weights.",
        )
    scale = _positive(f"{path}.weight_fake_quant.scale", values["scale"])
    return Scales(weight=scale * np.float32(INT8_MAX))


def _torch_output(path: str, values: Mapping[str, Tensor]) -> Scales | None:
    found = None if _is_off(values) else _torch_range(f"{path}.activation_post_process", values)
    return found and Scales(output=found)


def _torch_range(path: str, values: Mapping[str, Tensor]) -> Range | None:
    low, high = (values.get(f"activation_post_process.{end}", torch.empty(0)) for end in ("min_val", "max_val"))
    learned = "learning_enabled" in values
    if not learned and low.numel() and high.numel():
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            return None  # the observer saw no data
        return min(0.0, float(low.min())), max(0.0, float(high.max()))
    if "scale" not in values or values["scale"].numel() != 1:
        return None
    scale = float(_positive(f"{path}.scale", values["scale"]).max())
    zero = float(values["zero_point"].max()) if "zero_point" in values else 0.0
    bottom, top = _INT8 if zero < 0 else _UINT8
    return (bottom - zero) * scale, (top - zero) * scale


def _is_off(values: Mapping[str, Tensor]) -> bool:
    """Whether a quantiser was switched off."""
    return "fake_quant_enabled" in values and not values["fake_quant_enabled"].any()


def _amax(role: str, path: str, values: Mapping[str, Tensor]) -> np.ndarray | None:
    if _CHANGES_ANSWERS in values:
        raise CheckpointError(
            f"{path}.{role}_quantizer multiplies its input by {_CHANGES_ANSWERS}: the weights alone answer otherwise",
            remedy="Train or calibrate without smoothing (SmoothQuant, AWQ).",
        )
    return _positive(f"{path}.{role}_quantizer._amax", values["_amax"]) if "_amax" in values else None


def _modelopt_weight(path: str, values: Mapping[str, Tensor]) -> Scales | None:
    amax = _amax("weight", path, values)
    return None if amax is None else Scales(weight=amax)


def _modelopt_input(path: str, values: Mapping[str, Tensor]) -> Scales | None:
    amax = _amax("input", path, values)
    return None if amax is None else Scales(input=(-float(amax.max()), float(amax.max())))


def _modelopt_output(path: str, values: Mapping[str, Tensor]) -> Scales | None:
    amax = _amax("output", path, values)
    return None if amax is None else Scales(output=(-float(amax.max()), float(amax.max())))


_READERS = {
    "weight_fake_quant": _torch_weight,
    "activation_post_process": _torch_output,
    "weight": _modelopt_weight,
    "input": _modelopt_input,
    "output": _modelopt_output,
}


def _positive(name: str, tensor: Tensor) -> np.ndarray:
    """Scales as float32 [] or [channels]. Raises CheckpointError for a scale that is not above 0."""
    values = np.atleast_1d(tensor.detach().float().cpu().numpy().squeeze())
    if values.ndim != 1:
        raise CheckpointError(
            f"{name} has shape {list(tensor.shape)}: it is not one scale, nor one for each channel",
            remedy="Train with a scale per tensor or per output channel.",
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise CheckpointError(
            f"{name} holds {values[~(np.isfinite(values) & (values > 0))][0]}, which is no scale",
            remedy="Run the network on data before it is saved, so that its observers see values.",
        )
    return values.reshape(()) if len(values) == 1 else values


def _joined(first: Scales, second: Scales) -> Scales:
    return Scales(
        input=first.input or second.input,
        output=first.output or second.output,
        weight=first.weight if second.weight is None else second.weight,
    )


# Networks -------------------------------------------------------------------------------------------------------------


def _is_quantiser(module: object) -> bool:
    """Whether a module is a FakeQuantize of torch.ao, by the attributes that they all have."""
    return isinstance(module, nn.Module) and hasattr(module, "fake_quant_enabled") and hasattr(module, "quant_max")


def _hosts(network: nn.Module) -> dict[str, nn.Module]:
    """Path -> module, for the modules with a quantiser under one of torch.ao's names."""
    return {
        path: module
        for path, module in network.named_modules()
        if any(isinstance(getattr(module, name, None), nn.Module) for name in _OWNED)
        and path.rpartition(".")[2] not in _OWNED
    }


def _own_state(module: nn.Module) -> dict[str, Tensor]:
    return {
        k: v
        for name in _OWNED
        if (child := getattr(module, name, None)) is not None
        for k, v in child.state_dict(prefix=f"{name}.").items()
    }


def _check_kind(path: str, quantiser: nn.Module) -> None:
    span = int(quantiser.quant_max) - int(quantiser.quant_min)
    if span not in (127, 254, 255):
        raise CheckpointError(
            f"{path} quantises to {span + 1} steps", remedy="Train with 8 bits: only int8 can be built from it."
        )


def _inputs(network: nn.Module, quantisers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, Range]:
    """Layer with weights -> the range of its input, for inputs that a quantiser wrote. Found by one run.

    A view of a quantised tensor (reshaped, transposed) counts as that tensor.
    """
    given: dict[int, tuple[Tensor, Range]] = {}
    taken: dict[str, Range] = {}

    def remember(path: str):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, _: object, output: Tensor) -> None:
            found = _range_of(path, module)
            if found is not None:
                given[output.untyped_storage().data_ptr()] = (output, found)

        return hook

    def look(path: str):  # type: ignore[no-untyped-def]
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs and (known := given.get(inputs[0].untyped_storage().data_ptr())):
                taken[path] = known[1]

        return hook

    weight_quantisers = {path for path in quantisers if path.endswith("weight_fake_quant")}
    handles = [m.register_forward_hook(remember(p)) for p, m in quantisers.items() if p not in weight_quantisers]
    handles += [
        module.register_forward_pre_hook(look(path))
        for path, module in network.named_modules()
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear))
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return taken


def _range_of(path: str, quantiser: nn.Module) -> Range | None:
    values = quantiser.state_dict()
    return None if _is_off(values) else _torch_range(path, values)


def _to_float(network: nn.Module, scales: Mapping[str, Scales]) -> tuple[nn.Module, dict[str, Scales]]:
    """Replace fake-quantised layers by float ones; returns the network, and the scales by the new paths."""
    moved = dict(scales)
    for path, module in list(network.named_modules()):
        _drop_observers(module)
        if hasattr(module, "weight_fake_quant") and hasattr(module, "to_float"):
            plain = module.to_float().eval().requires_grad_(False)
            network = _replaced(network, path, plain)
            if isinstance(plain, nn.Sequential) and path in moved:
                whole, prefix = moved.pop(path), f"{path}." if path else ""
                moved[f"{prefix}0"] = Scales(input=whole.input, weight=whole.weight)
                moved[f"{prefix}{len(plain) - 1}"] = Scales(output=whole.output)
        elif _is_quantiser(module) and path.rpartition(".")[2] not in _OWNED:
            network = _replaced(network, path, nn.Identity())
    return network, moved


def _drop_observers(module: nn.Module) -> None:
    """Remove the observer that torch.ao's eager mode adds to a module, and the hook that calls it."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for handle, hook in list(hooks.items()):
            if getattr(hook, "__name__", "").startswith("_observer_forward_"):
                del hooks[handle]
    if _is_quantiser(module._modules.get("activation_post_process")):
        del module._modules["activation_post_process"]


def _replaced(network: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put another module at ``path`` if that path still exists; returns the network."""
    parent, _, name = path.rpartition(".")
    if not path:
        return module
    with contextlib.suppress(AttributeError):
        setattr(network.get_submodule(parent), name, module)
    return network
