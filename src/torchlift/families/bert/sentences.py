"""What sentence-transformers puts on an encoder, as its folder says: pooling, dense layers and normalisation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchlift.errors import CheckpointError
from torchlift.families.transformers_folder import WEIGHT_FILES, as_float32, read_json, read_weights
from torchlift.storage import open_regular

MODULES = "modules.json"

LENGTHS = tuple(f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "xlm-roberta"))
"""Files that state the most tokens of a text. Older releases named them by the kind of network."""

POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""How the states of the tokens become one row -> the flag of that name in older files. Several are put side by side, in
this order.
"""

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid)
}

EXPECTED = "The modules that are known are Transformer, Pooling, Dense, Dropout and Normalize, in this order."


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer and the name of the activation behind it. Its weights are in ``files``."""

    folder: Path
    files: tuple[Path, ...]
    before: int
    after: int
    bias: bool
    activation: str


@dataclass(frozen=True)
class Modules:
    """The modules of a folder. ``network`` is the folder of the encoder, ``length`` the most tokens of a text, where it
    is stated; ``lowercase``: texts are made lower case first. ``normalize``: rows get the length 1. ``prompt`` is the
    name of the prompt that sentence-transformers puts before each text; empty without.
    """

    network: Path
    length: int | None
    lowercase: bool
    poolings: tuple[str, ...]
    layers: tuple[DenseLayer, ...]
    normalize: bool
    prompt: str

    @property
    def described(self) -> str:
        """What the answers depend on, beside the weights."""
        layers = [(layer.before, layer.after, layer.bias, layer.activation) for layer in self.layers]
        return repr((self.poolings, layers, self.normalize, self.lowercase))

    def width(self, hidden: int) -> int:
        """The width of an embedding, of the ``hidden`` states of the encoder."""
        return self.layers[-1].after if self.layers else hidden * len(self.poolings)


def read_modules(root: Path) -> Modules:
    """Read modules.json and the configurations that it names. Raises CheckpointError for what is not known."""
    kinds = [(kind, folder) for kind, folder in _listed(root) if kind != "Dropout"]
    names = [kind for kind, _ in kinds]
    dense = [folder for kind, folder in kinds if kind == "Dense"]
    wanted = ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * (names[-1:] == ["Normalize"])]
    if names != wanted:
        raise CheckpointError(f"{root / MODULES} lists {', '.join(names) or 'no modules'}", remedy=EXPECTED)
    network, pooling = kinds[0][1], kinds[1][1]
    stated = next((read_json(network / name) for name in LENGTHS if (network / name).is_file()), {})
    length = stated.get("max_seq_length")
    prompts = root / "config_sentence_transformers.json"
    named = read_json(prompts).get("default_prompt_name") if prompts.is_file() else None
    return Modules(
        network=network,
        length=length if isinstance(length, int) and length > 0 else None,
        lowercase=bool(stated.get("do_lower_case")),
        poolings=_poolings(pooling / "config.json"),
        layers=tuple(map(_layer, dense)),
        normalize=names[-1] == "Normalize",
        prompt=str(named or ""),
    )


def _listed(root: Path) -> list[tuple[str, Path]]:
    """The kind and the folder of each module: the last part of ``type``, since the paths before it change."""
    file = root / MODULES
    try:
        with open_regular(file) as stream:
            listed = json.loads(stream.read().decode("utf-8"))
        found = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in listed]
    except (ValueError, RecursionError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}", remedy="Download the folder again.") from error
    for _, path in found:
        if path.startswith("/") or ".." in path.split("/") or "\\" in path:
            raise CheckpointError(f"{file} points outside the folder: {path!r}", remedy="Do not use this folder.")
    return [(kind, root / path) for kind, path in found]


def _poolings(file: Path) -> tuple[str, ...]:
    """The ways of pooling that a configuration states, in either form of the file."""
    config = read_json(file)
    if "pooling_mode" in config:
        stated = config["pooling_mode"]
        named = [stated] if isinstance(stated, str) else stated
        if not isinstance(named, list) or not named or not {*named} <= {*POOLINGS}:
            raise CheckpointError(
                f"{file} states the pooling {stated!r}", remedy=f"Known are {', '.join(POOLINGS)}, or a list of these."
            )
        return tuple(name for name in POOLINGS if name in named)
    chosen = tuple(name for name, flag in POOLINGS.items() if config.get(flag))
    if not chosen:
        raise CheckpointError(f"{file} states no pooling that is known", remedy=f"Known are {', '.join(POOLINGS)}.")
    return chosen


def _layer(folder: Path) -> DenseLayer:
    config = read_json(folder / "config.json")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2].partition("(")[0]
    before, after = config.get("in_features"), config.get("out_features")
    if activation not in ACTIVATIONS or not (isinstance(before, int) and isinstance(after, int) and before > 0 < after):
        raise CheckpointError(
            f"{folder / 'config.json'} describes no dense layer that is known: {before} to {after}, {activation}",
            remedy=f"The activations that are known are {', '.join(ACTIVATIONS)}.",
        )
    files = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not files:
        raise CheckpointError(f"{folder} has no weights", remedy="Download the folder again.")
    return DenseLayer(folder, tuple(files[:1]), before, after, bool(config.get("bias", True)), activation)


class Finish(nn.Module):
    """States float32 [batch, sequence, hidden] and a mask [batch, sequence] to embeddings, float32 [batch, width]."""

    def __init__(self, modules: Modules) -> None:
        super().__init__()
        self.poolings, self.normalize = modules.poolings, modules.normalize
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "linear": nn.Linear(layer.before, layer.after, bias=layer.bias),
                    "activation": ACTIVATIONS[layer.activation](),
                }
            )
            for layer in modules.layers
        )

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(-1).to(states.dtype)
        pooled = [_pooled(name, states, weights) for name in self.poolings]
        found = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
        for layer in self.layers:
            found = layer["activation"](layer["linear"](found))  # type: ignore[index]
        return F.normalize(found, dim=1) if self.normalize else found


def finish_of(modules: Modules, hidden: int) -> Finish:
    """The network behind the encoder, with its weights. Raises CheckpointError for weights that do not fit."""
    finish = Finish(modules)
    width = hidden * len(modules.poolings)
    for place, layer in zip(finish.layers, modules.layers, strict=True):
        found = read_weights(layer.files, "Download the folder again.")
        needed = {f"linear.{name}": tensor for name, tensor in place["linear"].state_dict().items()}  # type: ignore[index]
        shapes = {name: [*tensor.shape] for name, tensor in found.items()}
        wanted = {name: [*tensor.shape] for name, tensor in needed.items()}
        if shapes != wanted or layer.before != width:
            raise CheckpointError(
                f"{layer.files[0]} holds {shapes} for rows of {width} numbers, and config.json beside it describes "
                f"{wanted}",
                remedy="Download the folder again.",
            )
        place.load_state_dict({name: as_float32(name, found[name], tensor) for name, tensor in needed.items()})
        width = layer.after
    return finish.eval().requires_grad_(False)


def _pooled(name: str, states: Tensor, weights: Tensor) -> Tensor:
    """One row for each text. ``weights`` [batch, sequence, 1] are 1 at tokens and 0 at padding."""
    if name == "cls":
        return states[:, 0]
    if name == "max":
        return (states + (weights - 1.0) * 1e9).amax(dim=1)
    if name == "lasttoken":
        last = weights.sum(dim=1, keepdim=True).long() - 1
        return states.gather(1, last.expand(-1, -1, states.shape[2])).squeeze(1)
    if name == "weightedmean":
        weights = weights * torch.arange(1, states.shape[1] + 1, dtype=states.dtype)[None, :, None]
    total, count = (states * weights).sum(dim=1), weights.sum(dim=1).clamp(min=1e-9)
    return total / (count.sqrt() if name == "mean_sqrt_len_tokens" else count)
