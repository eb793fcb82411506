"""What layers cost, and what several GPUs achieve, as tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from torchlift.backends import LayerTime
from torchlift.cli.tables import conditions_text, rate_text, within
from torchlift.errors import telling
from torchlift.evidence import Scaling

_FEW = 4
"""How many nodes of a layer are all named; of more the first and the last are."""


def scaling_table(component: str, scaling: Scaling) -> RenderableType:
    """Samples a second on one and more GPUs, a process each."""
    table = Table(title=f"{component}: throughput", title_justify="left", title_style="bold", box=None)
    for name in ("variant", "sizes", "GPUs", "per s", "times one GPU"):
        table.add_column(name, justify="left" if name in ("variant", "sizes") else "right")
    single = {(x.contender, str(x.sizes)): x.samples for x in scaling.throughputs if x.devices == 1}
    for x in scaling.throughputs:
        sizes = ", ".join(f"{name} {size}" for name, size in x.sizes.items())
        ratio = x.samples / single[x.contender, str(x.sizes)]
        table.add_row(within(component, x.contender), sizes, str(x.devices), rate_text(x.samples), f"{ratio:.2f}")
    said = ["Each GPU has a process of its own, inputs in its memory.", *map(conditions_text, scaling.conditions)]
    said += [f"{within(component, x.contender)} is not measured: {telling(x.detail)}." for x in scaling.failures]
    return Group(table, Text(" ".join(said), style="dim"), Text(""))


def nodes_text(nodes: Sequence[str]) -> str:
    """The nodes of a layer, of many the first and the last."""
    return ", ".join(nodes) if len(nodes) <= _FEW else f"{nodes[0]} ... {nodes[-1]}, {len(nodes)} nodes"


_COSTLIEST = 20
"""Layers that are shown. The others have one line together."""


def layers_table(variant: str, layers: Sequence[LayerTime], *, verbose: bool = False) -> RenderableType:
    """What the costliest layers of a variant cost, or with ``verbose`` all of them, the most expensive first, and where
    each ran if not all ran in one place.
    """
    table = Table(title=f"{variant}: layers", title_justify="left", title_style="bold", box=None)
    several = len({layer.device for layer in layers}) > 1
    for heading in ("us", "share", "precision", *["on"] * several, "layer", "ONNX nodes"):
        table.add_column(heading, justify="right" if heading in ("us", "share") else "left", overflow="fold")
    total = sum(layer.seconds for layer in layers) or 1.0
    ordered = sorted(layers, key=lambda x: -x.seconds)
    shown = ordered if verbose else ordered[:_COSTLIEST]
    for layer in shown:
        nodes = nodes_text(layer.nodes)
        said = layer.operator if (layer.name,) == layer.nodes else f"{layer.operator} {layer.name}"
        cost = f"{1e6 * layer.seconds:.1f}", f"{layer.seconds / total:.1%}"
        table.add_row(*cost, layer.precision, *[layer.device] * several, said, nodes or "-")
    if rest := ordered[len(shown) :]:
        seconds = sum(layer.seconds for layer in rest)
        cost = f"{1e6 * seconds:.1f}", f"{seconds / total:.1%}"
        table.add_row(*cost, "", *[""] * several, f"{len(rest)} more layers: -v shows all", "-")
    by: dict[str, float] = defaultdict(float)
    for layer in layers:
        by[layer.precision] += layer.seconds
    shares = ", ".join(f"{name} {by[name] / total:.0%}" for name in sorted(by, key=lambda x: -by[x]))
    caption = f"{len(layers)} layers, {1e6 * total:.0f} us, of it in {shares}. To measure each layer slows them all."
    return Group(table, Text(caption, style="dim"), Text(""))
