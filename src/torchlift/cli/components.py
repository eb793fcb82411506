"""What a bundle's components are, and how they were exported, as tables for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from torchlift.bundle import Bundle
from torchlift.cli.tables import size_text
from torchlift.manifest import Component, Manifest


def facts_line(manifest: Manifest) -> str:
    """The settings, the assets and what the bundle was made with."""
    settings = {**manifest.settings, **manifest.assets}
    said = [f"{name} {value}" for name, value in settings.items() if value]
    return ", ".join([*said, "made with " + ", ".join(f"{n} {v}" for n, v in manifest.made_with.items())])


def components_table(bundle: Bundle) -> RenderableType:
    """What the bundle's components take and give."""
    manifest = bundle.manifest
    table = Table(title=f"{manifest.name} ({manifest.family})", title_justify="left", title_style="bold", box=None)
    for name in ("component", "inputs", "outputs", "axes", "parameters", "opset", "ONNX"):
        table.add_column(name, justify="right" if name in ("parameters", "opset", "ONNX") else "left", overflow="fold")
    for c in manifest.components:
        folder = c.goldens.rsplit("/", 1)[0]
        size = sum(r.size for p, r in manifest.files.items() if p.startswith(f"{folder}/model.onnx"))
        table.add_row(
            c.name,
            "\n".join(f"{s.name} {s}" for s in c.signature.inputs),
            "\n".join(f"{s.name} {s}" for s in c.signature.outputs),
            "\n".join(f"{a.name} {a}" for a in c.signature.axes),
            f"{c.parameters:,}",
            f"{c.opset or '-'} ({c.exporter})",
            size_text(size),
        )
    return Group(table, Text(""))


def exports_table(manifest: Manifest) -> RenderableType:
    """How each component was exported: the strategies that did not end in a proof, and the one that did."""
    table = Table(title="ways to export", title_justify="left", box=None)
    for name in ("component", "strategy", "result"):
        table.add_column(name, overflow="fold")
    for component in manifest.components:
        for strategy, reason in component.tried.items():
            table.add_row(component.name, strategy, reason)
        table.add_row(component.name, component.exporter, "proven")
    return Group(table, Text(""))


def operators_line(bundle: Bundle, component: Component) -> str:
    """How many nodes of which operators a component's graph has."""
    from torchlift.graph.inspect import read_facts

    if not component.model:
        return f"{component.name}: no ONNX graph: {component.failure}"
    facts = read_facts(bundle.file(component.model))
    return f"{component.name}: {facts.nodes} nodes: " + ", ".join(f"{n} {op}" for op, n in facts.operators.items())
