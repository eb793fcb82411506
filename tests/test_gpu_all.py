"""What benchmarks/gpu_all.py has gpu.py measure."""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gpu_all


def test_every_component_and_texts_are_measured_of_what_is_prepared(tmp_path, monkeypatch):
    components = {"ViT-B-16": ("image", "text"), "mobilevit-xxs": ("model",)}

    def opened(path):
        found = [SimpleNamespace(name=name) for name in components[path.name]]
        return SimpleNamespace(manifest=SimpleNamespace(components=found))

    monkeypatch.setattr(gpu_all.Bundle, "open", opened)
    fleet = gpu_all.Fleet(tmp_path, tmp_path / "results", ["A=b c", "python3.10"], rounds=6, until=0.0)
    for size in components:
        fleet.prepared(size).touch()
    shared = ["--tensorrt", "'A=b c' python3.10", "--rounds", "6", "--json"]
    wanted = {
        "ViT-B-16.image": ["measure", "ViT-B-16", "--component", "image"],
        "ViT-B-16.text": ["measure", "ViT-B-16", "--component", "text"],
        "ViT-B-16.text.stream": ["stream", "ViT-B-16"],
        "mobilevit-xxs.model": ["measure", "mobilevit-xxs", "--component", "model"],
    }
    assert dict(gpu_all.measurements(fleet, ["RN50", *components])) == {
        label: [*arguments, *shared, str(tmp_path / "results" / f"{label}.json")] for label, arguments in wanted.items()
    }
