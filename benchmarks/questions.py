"""Questions over long contexts: windows in batches by length, against each window padded to 384 tokens.

python benchmarks/questions.py --work /tmp/bench [--width 128 --layers 4] [--questions 24] [--rounds 5]

A BERT with random weights is built in FP32 for ONNX Runtime and OpenVINO. The contexts are of the lengths that SQuAD's
have, and one in eight is a chapter that is cut into windows. Both ways run the same variant in this process, one after
the other in each round; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import torchlift as tl
from torchlift.declare.inputs import QuestionInput
from torchlift.pipelines.question_answering import QuestionAnswering
from torchlift.pipelines.run import filled
from torchlift.processing.questions import Windows
from torchlift.processing.spans import FoundSpans, SpanSearch

LENGTH = 384
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = 2000
"""Words of the vocabulary, each one token."""

ONE_IN = 8
"""One context in as many is a chapter."""


def checkpoint(folder: Path, width: int, layers: int) -> Path:
    """A BERT for question answering with random weights, as transformers saves it."""
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + WORDS,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
    )
    entries = {word: i for i, word in enumerate((*SPECIAL, *(f"w{n}" for n in range(WORDS))))}
    tokenizer = Tokenizer(models.WordPiece(entries, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.BertForQuestionAnswering(config).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    return folder


def asked(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Questions and contexts: words as many as SQuAD v1.1 has (11 in the median question, 110 in the median context,
    with the spread of its logarithm), and chapters of 1,500 words.
    """
    rng = np.random.default_rng(seed)

    def text(words: int) -> str:
        return " ".join(f"w{n}" for n in rng.integers(0, WORDS, words))

    lengths = np.clip(np.exp(rng.normal(np.log(110), 0.4, count)), 25, 600).astype(int)
    lengths[::ONE_IN] = 1500
    return [(text(int(np.clip(rng.normal(11, 3.5), 4, 30))), text(int(words))) for words in lengths]


def padded(qa: QuestionAnswering, pairs: list[tuple[str, str]], size: int) -> FoundSpans:
    """The plain way: windows in the order of the questions, ``size`` a batch, each padded to ``LENGTH``."""
    windows: Windows = qa.preparer(qa.component).windows(pairs)
    session, search = qa.session(qa.component), SpanSearch(qa.declared, windows)
    for first in range(0, windows.rows, size):
        rows = np.arange(first, min(first + size, windows.rows))
        feeds = dict(
            zip(
                session.signature.input_names,
                (part(rows, LENGTH) for part in (windows.ids, windows.mask, windows.types)),
                strict=True,
            )
        )
        answer = session.run({name: filled(array, len(rows)) for name, array in feeds.items()})
        search.add(rows, answer["start"], answer["end"])
    return search.found()


def compare(bundle: Path, variant: str, pairs: list[tuple[str, str]], rounds: int) -> None:
    """Print the times of both ways, their ratio, and how far their answers are apart."""
    with tl.open(bundle, variants={"model": variant}) as qa:
        component = qa.bundle.manifest.component(qa.component)
        size = component.signature.axis("batch").opt
        declared = component.inputs["input_ids"]
        assert isinstance(declared, QuestionInput)
        assert declared.length == LENGTH
        windows = qa.preparer(qa.component).windows(pairs)
        ways = {"padded to 384": lambda: padded(qa, pairs, size), "by length": lambda: qa.spans(pairs)}
        found, times = {name: way() for name, way in ways.items()}, {name: [] for name in ways}
        for number in range(rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                began = time.perf_counter()
                ways[name]()
                times[name].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(times["padded to 384"], times["by length"], strict=True)]
    print(
        f"{variant}: {len(pairs)} questions, {windows.rows} windows of {windows.lengths.mean():.0f} tokens on average"
    )
    for name, taken in times.items():
        print(f"  {name:14} median {statistics.median(taken):7.2f} s")
    print(f"  ratio          median {statistics.median(ratios):7.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")
    ours, theirs = found["by length"], found["padded to 384"]
    same = (ours.start == theirs.start) & (ours.end == theirs.end)
    print(f"  same spans {same.mean():.1%}, logits off by at most {np.abs(ours.best - theirs.best).max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoint and bundle are kept")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    name = f"questions-{arguments.width}x{arguments.layers}"
    bundle = arguments.work / f"{name}-bundle"
    if not bundle.exists():
        folder = checkpoint(arguments.work / name, arguments.width, arguments.layers)
        tl.export("bert", str(folder), bundle)
        tl.build(bundle, backends=["onnxruntime", "openvino"], precisions=["fp32"])
    for backend in ("onnxruntime", "openvino"):
        compare(bundle, f"{backend}/fp32", asked(arguments.questions), arguments.rounds)


if __name__ == "__main__":
    main()
