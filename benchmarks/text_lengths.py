"""2,000 Chinese captions of realistic length: padded to the longest of a batch of like lengths, against padded to 52.

python benchmarks/text_lengths.py --work /tmp/bench
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from captions import CONTEXT, caption_lengths
from peers import encode_texts, encode_texts_padded, print_benchmark, shipped
from torchlift.evidence import Entrant
from torchlift.pipelines import OpenOptions, open_bundle
from torchlift.timing.latency import Contender, LatencyOptions, Workload, measure_latency


def captions(count: int, seed: int = 0) -> list[str]:
    """Ideographs at random, as many as captions have."""
    rng = np.random.default_rng(seed)
    return ["".join(chr(c) for c in rng.integers(0x4E00, 0x5E00, n)) for n in caption_lengths(count, rng)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoints and bundles are kept")
    parser.add_argument("--size", default="ViT-B-16")
    parser.add_argument("--captions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    bundle = shipped(arguments.size, arguments.work)
    path, texts = bundle.path.absolute(), captions(arguments.captions)
    print(f"{len(texts)} captions, {np.mean([len(t) for t in texts]):.1f} characters on average")
    for variant in ("openvino/fp32", "openvino/bf16"):
        contenders = [
            Contender(Entrant("padded to 52"), partial(encode_texts_padded, path, texts, variant)),
            Contender(Entrant("torchlift"), partial(encode_texts, path, texts, variant)),
        ]
        benchmark = measure_latency(
            contenders,
            [Workload({"batch": len(texts)}, {})],
            baseline=contenders[0].entrant,
            options=LatencyOptions(rounds=arguments.rounds, warmups=0),
        )
        print_benchmark(f"{arguments.size} text, {variant}", benchmark)
    print(f"largest difference of a normalised feature, openvino/fp32: {_difference(path, texts[:256]):.1e}")


def _difference(path: Path, texts: list[str]) -> float:
    with open_bundle(path, OpenOptions({"text": "openvino/fp32"})) as pipeline:
        ours = pipeline.encode_text(texts)
        ids = pipeline.tokenizer.encode(texts, CONTEXT)
        session = pipeline.session("text")
        parts = [session.run({"text": ids[i : i + 64]})["unnorm_text_features"] for i in range(0, len(ids), 64)]
    padded = np.concatenate(parts)
    return float(np.abs(ours - padded / np.linalg.norm(padded, axis=1, keepdims=True)).max())


if __name__ == "__main__":
    main()
