"""Full-size towers in every precision on the processor, against torch and the quantisers of the runtimes, in one run.

python benchmarks/precision_cpu.py --work /tmp/bench
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from peers import (
    PlainOnnxRuntime,
    PlainOpenVino,
    apart,
    checkpoint_of,
    made_once,
    quantized_by_nncf,
    quantized_dynamically,
    quantized_statically,
)
from torchlift.backends import Session, backend
from torchlift.bundle import Bundle
from torchlift.checksums import key_of
from torchlift.convert.calibration import CalibrationOptions
from torchlift.convert.ranges import Feeds
from torchlift.evidence import Benchmark, Entrant, GoldenCheck, Interval, Latency
from torchlift.families.base import LoadOptions
from torchlift.jobs.peers import peers as torch_peers
from torchlift.jobs.ship import export
from torchlift.jobs.source import Source
from torchlift.manifest import Component, Precision, Variant, read_manifest
from torchlift.messages import entrant_text, failure_text
from torchlift.prove.goldens import load_goldens
from torchlift.prove.numerics import TOLERANCES, failures, verify_goldens
from torchlift.signature import Axis
from torchlift.stages import (
    BenchOptions,
    BuildOptions,
    ConvertOptions,
    Materials,
    build_variant,
    choose,
    contenders_of,
    convert_component,
    plan,
    verify_all,
    workloads,
)
from torchlift.stages.samples import Samples
from torchlift.timing.latency import Contender, LatencyOptions, measure_latency

BASELINE = Entrant("onnxruntime, plain")
CLIP, MOBILEVIT = "ViT-B-16", "mobilevit-s"
SEQUENCES = (16, 52, 128)
SAMPLES_AT_ONCE = 4

ABOUT = """\
Weights are random, so no task is scored: cosine and largest difference compare a contender's answers at the bundle's
goldens with PyTorch's in FP32. INT8 is calibrated on {samples} samples that the family's own sampler draws with a seed
(coloured patches with noise, random tokens), torchlift's and the peers' alike. ONNX Runtime's quantisers get the
exported file in one piece and without value_info, at which their shape inference stops in files of the dynamo exporter;
quantize_dynamic is given MatMul only, since ONNX Runtime has no convolution for its int8 weights.
"""


@dataclass(frozen=True)
class Subject:
    """One component and the ``sizes`` of its axes other than the batch at which it is timed.

    ``transformer`` where NNCF's documentation asks for its model type of that name; a network of both kinds is
    quantised with and without. ``goal`` is how many times as fast as plain ONNX Runtime INT8 shall be.
    """

    title: str
    source: Source
    path: Path
    component: str
    sizes: tuple[Mapping[str, int], ...] = ({},)
    transformer: bool = True
    goal: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How near answers are to PyTorch's: the smallest cosine of a row, the largest difference as a share of the scale,
    and what is out of the precision's tolerance.
    """

    cosine: float
    scaled: float
    failures: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.cosine:.5f} | {self.scaled:.1e} | {self.failures[0] if self.failures else 'holds'}"


@dataclass(frozen=True)
class Entry:
    """One row of the table; ``ours`` where it is a variant."""

    contender: Contender
    agreement: Agreement
    ours: Variant | None = None


def subjects(work: Path) -> dict[str, Subject]:
    """What is measured, by its short name."""
    clip = replace(
        checkpoint_of(CLIP, work),
        options=LoadOptions(
            {"": {"batch": Axis("batch", 1, 8, 16)}, "text": {"sequence": Axis("sequence", 4, 16, 128)}}
        ),
    )
    classifier = Source(
        "mobilevit",
        str(work / f"{MOBILEVIT}-checkpoint" / f"{MOBILEVIT}.pth.tar"),
        LoadOptions({"": {"batch": Axis("batch", 1, 8, 16)}}),
    )
    towers, net = work / f"{CLIP}-precision", work / f"{MOBILEVIT}-precision"
    lengths = tuple({"sequence": length} for length in SEQUENCES)
    return {
        "vit": Subject("ViT-B-16 image tower", clip, towers, "image", goal=2.9),
        "bert": Subject("BERT-base-size text tower", clip, towers, "text", lengths, goal=3.7),
        "mobilevit": Subject("MobileViT-s", classifier, net, "model", transformer=False),
    }


def write_source(subject: Subject) -> None:
    """Write the random checkpoint and export it, where that was not done."""
    from random_checkpoint import write_checkpoint, write_mobilevit

    file = Path(subject.source.location)
    if not file.is_file():
        write = write_mobilevit if subject.source.family == "mobilevit" else write_checkpoint
        write(file.parent.name.removesuffix("-checkpoint"), file)
    if not (subject.path / "manifest.json").is_file():
        export(subject.source, subject.path)


def opened(subject: Subject) -> tuple[Bundle, Component]:
    bundle = Bundle(subject.path, read_manifest(subject.path))
    return bundle, bundle.manifest.component(subject.component)


def drawn(subject: Subject, count: int) -> Feeds:
    """At least ``count`` seeded samples, in batches, of every size that is timed in turn."""
    part = subject.source.load().component(subject.component)
    found = []
    for number in range(-(-count // SAMPLES_AT_ONCE)):
        sizes = subject.sizes[number % len(subject.sizes)]
        at = part.signature.sizes("opt", batch=SAMPLES_AT_ONCE, **sizes)
        found.append(part.sample(at, np.random.default_rng([7, number])))
    return found


def make_variants(subject: Subject, count: int) -> None:
    """Convert, build and verify every variant that this machine runs; what was made before is kept."""
    write_source(subject)
    bundle, component = opened(subject)
    pairs = plan(BuildOptions(), Materials(data=True, samples=True))
    samples = Samples("seeded random samples", f"drawn {count}", lambda _: drawn(subject, count), given=True)
    forms = list(dict.fromkeys(backend(name).recipe(recipe).form.name for name, recipe in pairs))
    convert_component(bundle, component, forms, samples, ConvertOptions(CalibrationOptions(samples=count)))
    for name, recipe in pairs:
        build_variant(bundle, component, name, recipe)
    verify_all(bundle, bundle.manifest.variants_of(component.name))


def quantize(maker: Callable[..., None], subject: Subject, count: int, folder: Path) -> None:
    """Run a quantiser of the peers, in a process of its own."""
    bundle, component = opened(subject)
    with redirect_stdout(sys.stderr):
        maker(bundle.file(component.model).absolute(), folder, drawn(subject, count))


def agreement_of(opener: Callable[[], Session], subject: Subject, precision: Precision) -> Agreement:
    """Run a contender at the goldens."""
    goldens = load_goldens(*opened(subject)).values()
    with opener() as session:
        return _summary(verify_goldens(session.run, goldens), precision)


def _summary(checks: Sequence[GoldenCheck], precision: Precision) -> Agreement:
    cosine = min(check.difference.cosine for check in checks)
    scaled = max(check.difference.max_scaled for check in checks)
    return Agreement(cosine, scaled, tuple(map(failure_text, failures(checks, TOLERANCES[precision]))))


def peers_of(subject: Subject, count: int, failed: dict[str, str]) -> list[Entry]:
    """The peers, opened as their users would, and how near each is to PyTorch; ``failed`` gets those that are not."""
    bundle, component = opened(subject)
    model, signature = bundle.file(component.model).absolute(), component.signature
    kept = bundle.path.with_name(f"{bundle.path.name}-peers") / f"{component.name}-{key_of(component.key, count)[:8]}"
    nncf, transformer = (partial(quantized_by_nncf, transformer=kind) for kind in (False, True))

    def made(name: str, maker: Callable[..., None]) -> Path:
        return made_once(kept.absolute() / name, partial(quantize, maker, subject, count))

    eager = torch_peers(subject.source, component.name)[0]
    openers: dict[str | Entrant, tuple[Precision, Callable[[], Callable[[], Session]]]] = {
        eager.entrant: ("fp32", lambda: eager.open),
        BASELINE: ("fp32", lambda: partial(PlainOnnxRuntime, model, signature)),
        "onnxruntime, quantize_dynamic": (
            "int8",
            lambda: partial(PlainOnnxRuntime, made("dynamic", quantized_dynamically) / "model.onnx", signature),
        ),
        "onnxruntime, quantize_static": (
            "int8",
            lambda: partial(PlainOnnxRuntime, made("static", quantized_statically) / "model.onnx", signature),
        ),
        "openvino, plain f32": ("fp32", lambda: partial(PlainOpenVino, model, signature, "f32")),
        "openvino, plain default": ("bf16", lambda: partial(PlainOpenVino, model, signature, "")),
        "openvino, nncf.quantize TRANSFORMER": (
            "int8",
            lambda: partial(PlainOpenVino, made("nncf-transformer", transformer) / "model.xml", signature, ""),
        ),
    }
    if not subject.transformer:
        openers["openvino, nncf.quantize"] = (
            "int8",
            lambda: partial(PlainOpenVino, made("nncf", nncf) / "model.xml", signature, ""),
        )
    found = []
    for peer, (precision, prepare) in openers.items():
        entrant = Entrant(peer, precision) if isinstance(peer, str) else peer
        say(f"{subject.title}: {entrant_text(entrant)}")
        try:
            opener = prepare()
            found.append(Entry(Contender(entrant, opener), apart(agreement_of, opener, subject, precision)))
        except Exception as error:
            failed[entrant_text(entrant)] = f"{type(error).__name__}: {error}"
    return found


def ours_of(subject: Subject, failed: dict[str, str]) -> list[Entry]:
    """Every variant that was built and runs, at the same goldens as the peers; what its own proof failed in counts too:
    a calibrated variant is proven on samples like those that it was calibrated on.
    """
    bundle, component = opened(subject)
    found = []
    for variant in bundle.manifest.variants_of(component.name):
        proof = variant.verification
        if proof is None or not proof.checks:
            said = failure_text(proof.failures[0]) if proof else "it was not verified"
            failed[variant.name] = variant.failure or said
            continue
        say(f"{subject.title}: {variant.name}")
        contender = contenders_of(bundle, variant)[0]
        agreement = apart(agreement_of, contender.open, subject, variant.precision)
        agreement = replace(agreement, failures=(*map(failure_text, proof.failures), *agreement.failures))
        found.append(Entry(contender, agreement, variant))
    return found


def measure(subject: Subject, batches: Sequence[int], options: LatencyOptions, count: int) -> None:
    """Make what is missing, time everything side by side, and print a table for each workload."""
    failed: dict[str, str] = {}
    say(f"{subject.title}: variants")
    apart(make_variants, subject, count)
    entries = [*peers_of(subject, count, failed), *ours_of(subject, failed)]
    bundle, component = opened(subject)
    loads = [w for s in subject.sizes for w in workloads(bundle, component, BenchOptions(tuple(batches), s))]
    say(f"{subject.title}: {len(entries)} contenders at {len(loads)} sizes, {options.rounds} rounds")
    contenders = [entry.contender for entry in entries]
    benchmark = measure_latency(contenders, loads, baseline=BASELINE, options=options)
    failed |= {entrant_text(x.contender): x.detail for x in benchmark.failures}
    for load in loads:
        here = replace(benchmark, latencies=tuple(x for x in benchmark.latencies if x.sizes == load.sizes))
        chosen = choose(bundle, component, here).variant
        at = ", ".join(f"{axis} {size}" for axis, size in load.sizes.items())
        print(f"### {subject.title}, {at}\n")
        print_table(here, entries, chosen)
        print_verdicts(here, entries, chosen, subject.goal)
        print()
    for name, reason in failed.items():
        print(f"- {name} has no times: {reason}")
    print(
        f"\n{benchmark.machine}; {benchmark.threads} threads; {benchmark.rounds} interleaved rounds; {benchmark.at}\n",
        flush=True,
    )


def print_table(benchmark: Benchmark, entries: Sequence[Entry], chosen: str) -> None:
    """Markdown; the chosen variant is set in bold."""
    print(
        "| contender | runs on | median ms | p95 | per s | times plain onnxruntime FP32 [95%] | cosine | largest "
        "difference | tolerance |\n|---|---|--:|--:|--:|--:|--:|--:|---|"
    )
    agreements = {entry.contender.entrant: entry.agreement for entry in entries}
    for x in benchmark.latencies:
        said_name = entrant_text(x.contender)
        name = f"**{said_name}**" if said_name == chosen else said_name
        speed = said(x.speedup) if x.speedup else "1"
        numbers = f"{x.median:.4g} | {x.p95:.4g} | {x.throughput:.4g}"
        print(f"| {name} | {benchmark.runtime_of(x.contender)} | {numbers} | {speed} | {agreements[x.contender]} |")
    print()


def print_verdicts(benchmark: Benchmark, entries: Sequence[Entry], chosen: str, goal: float | None) -> None:
    """What is chosen against the best peer, and INT8 against its goal. A peer out of tolerance is no rival."""
    times = {x.contender: x for x in benchmark.latencies}
    rows = [(entry, times[entry.contender.entrant]) for entry in entries if entry.contender.entrant in times]
    rivals = [x for entry, x in rows if entry.ours is None and not entry.agreement.failures]
    best = min(rivals, key=lambda x: x.median)
    ours = next(x for entry, x in rows if entry.ours is not None and entry.ours.name == chosen)
    against = ratio(ours, best)
    print(
        f"- chosen: {chosen}; {said(against)} times the best peer, {entrant_text(best.contender)}: {verdict(against)}"
    )
    for entry, x in rows:
        if entry.ours is None and entry.agreement.failures and x.median < best.median:
            reason = f"it is out of tolerance ({entry.agreement.failures[0]})"
            print(f"- faster than that is {entrant_text(x.contender)}, {x.median:.4g} ms, but {reason};", end=" ")
            print(f"the chosen one is {said(ratio(ours, x))} times as fast")
    integers = [(entry, x) for entry, x in rows if entry.ours and entry.ours.precision == "int8"]
    proven = [(entry, x) for entry, x in integers if not entry.agreement.failures]
    for what, found in {"INT8": integers, "INT8 in tolerance": proven}.items() if goal else ():
        if not found:
            print(f"- no variant is {what}")
            continue
        x = min((x for _, x in found), key=lambda x: x.median)
        print(
            f"- fastest {what}: {entrant_text(x.contender)}, {said(x.speedup)} times {entrant_text(BASELINE)}; "
            f"{judged(x.speedup, goal)}"
        )


def ratio(contender: Latency, rival: Latency) -> Interval:
    """How many times as fast, from both speed-ups over the baseline: the same value as from the rounds themselves. The
    two errors are added as if independent; those of the baseline, which they share, make the interval wider than it is.
    """
    (value, half), (other, other_half) = (_log(x.speedup) for x in (contender, rival))
    middle, error = value - other, float(np.hypot(half, other_half))
    low, ratio_, high = np.exp([middle - error, middle, middle + error])
    return Interval(float(ratio_), float(low), float(high))


def _log(speedup: Interval | None) -> tuple[float, float]:
    """The logarithm with half the width of its interval; 0 for the baseline itself."""
    return (float(np.log(speedup.value)), float(np.log(speedup.high / speedup.low) / 2)) if speedup else (0.0, 0.0)


def judged(speedup: Interval | None, goal: float | None) -> str:
    if speedup is None or goal is None:
        return "no goal"
    noise = "" if goal <= speedup.low or goal > speedup.high else " within noise"
    return f"goal {goal}: {'held' if speedup.value >= goal else 'missed'}{noise}"


def verdict(against: Interval) -> str:
    if against.low <= 1 <= against.high:
        return "a tie"
    return "it wins" if against.value > 1 else "it loses"


def said(interval: Interval | None) -> str:
    return str(interval) if interval else "1"


def say(what: str) -> None:
    """Progress, with the time, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoints, bundles, peers are kept")
    parser.add_argument("--only", default="vit,bert,mobilevit", help="which of them, with commas between")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--turn", type=float, default=0.6, help="seconds that a contender gets in a round")
    parser.add_argument("--samples", type=int, default=32, help="samples to calibrate on")
    arguments = parser.parse_args()
    known = subjects(arguments.work.absolute())
    print(ABOUT.format(samples=arguments.samples))
    for name in arguments.only.split(","):
        options = LatencyOptions(rounds=arguments.rounds, turn_seconds=arguments.turn)
        measure(known[name], arguments.batches, options, arguments.samples)


if __name__ == "__main__":
    main()
