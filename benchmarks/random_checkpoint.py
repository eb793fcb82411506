"""Writes a checkpoint of a published size with random weights: Chinese-CLIP in the original format, with a vocabulary,
or MobileViT as a ``.pth.tar``.

    python benchmarks/random_checkpoint.py ViT-B-16 /tmp/vit-b-16.pt
    python benchmarks/random_checkpoint.py mobilevit-s /tmp/mobilevit-s.pth.tar

Random weights run exactly as fast as trained ones; they say nothing about accuracy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from torchlift.families.chinese_clip.architecture import PUBLISHED, Architecture
from torchlift.families.chinese_clip.names import to_original
from torchlift.families.chinese_clip.towers import expected_shapes
from torchlift.families.mobilevit.architecture import PUBLISHED as MOBILEVIT
from torchlift.families.mobilevit.network import MobileViT


def write_checkpoint(name: str, file: Path, seed: int = 0) -> Path:
    """Write the checkpoint ``file`` and a vocab.txt beside it; ``name`` is a published size such as ViT-B-16."""
    architecture = PUBLISHED[name]
    torch.manual_seed(seed)
    state = to_original({key: _weight(key, shape) for key, shape in expected_shapes(architecture).items()})
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"epoch": 0, "step": 0, "name": name, "state_dict": {f"module.{k}": v for k, v in state.items()}}
    torch.save(content, file)
    (file.parent / "vocab.txt").write_text("\n".join(_vocabulary(architecture)) + "\n", encoding="utf-8")
    return file


def write_mobilevit(name: str, file: Path, seed: int = 0, resolution: int = 256) -> Path:
    """Write the checkpoint ``file``; ``name`` is a published size such as mobilevit-s.

    BatchNorm has the statistics of random pictures: with those that it starts with, the network answers 1e-42 to all.
    """
    torch.manual_seed(seed)
    network = MobileViT(MOBILEVIT[name])
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(16, 3, resolution, resolution))
    file.parent.mkdir(parents=True, exist_ok=True)
    state = {f"module.{key}": value for key, value in network.eval().state_dict().items()}
    torch.save({"epoch": 0, "state_dict": state, "best_acc1": 0.0}, file)
    return file


def _weight(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Weights under which signals keep their size from layer to layer."""
    if key == "logit_scale":
        return torch.tensor(4.6052)
    if "num_batches_tracked" in key:
        return torch.zeros(shape, dtype=torch.long)
    if "running_var" in key or (len(shape) == 1 and key.endswith("weight")):
        return torch.ones(shape)
    if len(shape) == 1:
        return 0.02 * torch.randn(shape)
    fan_in = torch.Size(shape[1:]).numel()
    return torch.randn(shape) * fan_in**-0.5


def _vocabulary(architecture: Architecture) -> list[str]:
    """[PAD] at 0 and the other special entries where the released vocabulary has them, then ideographs in order."""
    entries = [f"[unused{i}]" for i in range(architecture.text.vocabulary)]
    entries[0] = "[PAD]"
    entries[100:104] = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [chr(c) for c in (*range(0x21, 0x7F), *range(0x3001, 0x3030), *range(0x4E00, 0x9FA6))]
    room = len(entries) - 104
    entries[104:] = (characters + [f"##{c}" for c in characters])[:room]
    return entries


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("size", choices=[*PUBLISHED, *MOBILEVIT])
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    write = write_mobilevit if arguments.size in MOBILEVIT else write_checkpoint
    print(write(arguments.size, arguments.file))
