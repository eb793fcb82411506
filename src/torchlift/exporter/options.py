"""What a user may ask of the export: which exporter, which opset, which seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torchlift.errors import ExportError

Exporter = Literal["dynamo", "torchscript"]

DEFAULT_OPSET: dict[Exporter, int] = {"dynamo": 20, "torchscript": 16}
"""20 has Gelu; 16 is the last without LayerNormalization, which old parsers (TensorRT 8.5) do not know."""

OPSETS: dict[Exporter, range] = {"dynamo": range(18, 26), "torchscript": range(11, 21)}
"""The opsets that each exporter really writes; dynamo answers a lower number with 18, in silence."""

_ATTENTION_OPSET = 23
"""The first that has the operator Attention."""


@dataclass(frozen=True)
class ExportOptions:
    """``exporter`` None tries one after the other. ``opset`` None is the exporter's default. ``seed``, 0 or more, draws
    the goldens.
    """

    exporter: Exporter | None = None
    opset: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ExportError(f"the seed {self.seed} is negative", remedy="Use 0 or more.")
        if not self.exporters:
            asked = [self.exporter] if self.exporter else [*OPSETS]
            other = next((e for e, r in OPSETS.items() if self.opset in r), None)
            instead = f"use `exporter={other}`, or " if other else ""
            opsets = OPSETS[asked[0]]
            raise ExportError(
                f"the {' and the '.join(asked)} exporter {'does' if len(asked) == 1 else 'do'} not write opset "
                f"{self.opset}",
                remedy=f"Instead, {instead}choose an opset from {opsets[0]} to {opsets[-1]}.",
            )

    @property
    def exporters(self) -> tuple[Exporter, ...]:
        """The exporters that may be used, in order: the one that is asked for, else all that write the opset."""
        asked = (self.exporter,) if self.exporter else tuple(OPSETS)
        return tuple(exporter for exporter in asked if self.opset is None or self.opset in OPSETS[exporter])

    def opset_of(self, exporter: Exporter) -> int:
        return DEFAULT_OPSET[exporter] if self.opset is None else self.opset

    def attention_of(self, exporter: Exporter) -> str:
        """How the network is to write attention; TorchScript's exporter has no opset with the operator."""
        if exporter == "torchscript":
            return "eager"
        return "node" if self.opset_of(exporter) >= _ATTENTION_OPSET else "sdpa"
