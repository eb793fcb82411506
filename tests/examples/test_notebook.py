"""The notebook of a network in memory runs from its first cell to its last, and its network keeps its accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "network.ipynb"


def test_it_runs_as_it_is(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(json.loads(NOTEBOOK.read_text())["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    manifest = names["manifest"]
    scored = manifest.scoring.scores[manifest.choices["model"].variant]
    assert scored.drops["logits.top1"].value <= 0.5
    assert names["before"] > 80, "the network was trained"
    assert abs(names["before"] - names["after"]) <= 0.5
    assert {latency.contender.name for latency in manifest.benchmarks["model"].latencies} >= {"pytorch"}
    assert any(variant.precision == "int8" and not variant.failure for variant in manifest.variants)
