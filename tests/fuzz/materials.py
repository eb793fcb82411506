"""The good inputs that are damaged, made once, and how a damaged file gets a right checksum."""

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from programs import write_program
from transformers import ChineseCLIPConfig, ChineseCLIPModel, MobileViTConfig, MobileViTForImageClassification

from torchlift.bundle import Bundle
from torchlift.evidence import Choice
from torchlift.families.mobilevit.architecture import Architecture
from torchlift.families.mobilevit.network import MobileViT
from torchlift.prove.verify import verify_variant

MOBILE = Architecture((4, 4, 8, 8, 8, 8, 12, 12, 16, 16, 24), (16, 20, 24), (32, 48, 64), 2, (1, 2, 1), 32, classes=7)


@dataclass(frozen=True)
class Materials:
    """Paths: the bundles ``tiny`` and ``clip``, which serve; the checkpoint ``weights`` of the latter, with its
    vocab.txt beside it; in ``made`` what :func:`make` wrote.
    """

    tiny: Path
    clip: Path
    weights: Path
    made: Path

    def bundle(self, draw, folder):
        """A copy of one of the bundles, in ``folder``."""
        return shutil.copytree(draw.choice([self.tiny, self.tiny, self.clip]), folder / "bundle")


def make(folder, tiny):
    """Write a bundle that serves, a program, a MobileViT's checkpoint, and transformers' folders of both families."""
    _choose(Bundle.open(shutil.copytree(tiny, folder / "tiny")))
    torch.manual_seed(0)
    write_program(folder / "model.pt2")
    state = {f"module.{name}": tensor for name, tensor in MobileViT(MOBILE).state_dict().items()}
    torch.save({"epoch": 9, "state_dict": state}, folder / "mobile.pth.tar")
    mobile = MobileViTConfig(
        hidden_sizes=[16, 20, 24],
        neck_hidden_sizes=[4, 4, 8, 8, 12, 16, 24],
        num_attention_heads=4,
        expand_ratio=2.0,
        image_size=64,
        num_labels=5,
    )
    MobileViTForImageClassification(mobile).save_pretrained(folder / "mobile")
    said = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "resample": 2}
    (folder / "mobile" / "preprocessor_config.json").write_text(json.dumps(said))
    width = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    clip = ChineseCLIPConfig(
        text_config={**width, "vocab_size": 40, "max_position_embeddings": 32},
        vision_config={**width, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    ChineseCLIPModel(clip).save_pretrained(folder / "clip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"t{i}" for i in range(35))]
    (folder / "clip" / "vocab.txt").write_text("\n".join(words) + "\n")


def _choose(bundle):
    for variant in bundle.manifest.variants:
        bundle.commit(bundle.manifest.with_variant(replace(variant, verification=verify_variant(bundle, variant))))
    bundle.commit(replace(bundle.manifest, choices={"model": Choice("model/onnxruntime/fp32")}))


def put(bundle, path, data):
    """Replace a file of a bundle, and make its size and checksum in the manifest right."""
    (bundle / path).write_bytes(data)
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_bytes())
    manifest["files"][path] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    for component in manifest["components"]:
        for role, asset in manifest["assets"].items():
            if asset == path and role in component.get("assets", {}):
                component["assets"][role] = manifest["files"][path]["sha256"]
    file.write_text(json.dumps(manifest))


def listed(bundle, end):
    """The files of a bundle whose names end so."""
    return [path for path in json.loads((bundle / "manifest.json").read_bytes())["files"] if path.endswith(end)]
