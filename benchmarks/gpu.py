"""Full-size models on an NVIDIA GPU: torchlift's variants in FP16 against PyTorch and ONNX Runtime, in one run.

A subject is a size of Chinese-CLIP or MobileViT such as ViT-B-16 or mobilevit-xxs, or bert, swin, yolov5 or srcnn.

    python benchmarks/gpu.py prepare ViT-B-16 --work bench                    # where torch is
    python benchmarks/gpu.py build ViT-B-16 --work bench --backend tensorrt   # by the Python that has TensorRT
    python benchmarks/gpu.py build ViT-B-16 --work bench --backend onnxruntime-cuda --backend pytorch
    python benchmarks/gpu.py measure ViT-B-16 --work bench --tensorrt "LD_LIBRARY_PATH=... python3.10"
    python benchmarks/gpu.py stream ViT-B-16 --work bench --tensorrt "..."    # texts of realistic length
    python benchmarks/gpu.py scale ViT-B-16 --work bench --tensorrt "..."     # on several GPUs together
    python benchmarks/gpu_tables.py ViT-B-16.json ViT-B-16.text.stream.json

TensorRT and torch may live in different Pythons: ``--tensorrt`` says how the other is started; without it, this one is.
Weights are random: they run as fast as trained ones, and say nothing about accuracy.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from captions import CONTEXT
from gpu_peers import BATCH, PlainOnnxRuntime, Stream, by_likeness, captions_as_ids, padded
from gpu_tables import COMPILED, EAGER, described
from torchlift.backends import CompileOptions, backend
from torchlift.bundle import Bundle
from torchlift.evidence import Benchmark, Entrant
from torchlift.interpreter import Interpreter
from torchlift.machine import gpus
from torchlift.manifest import Component, Variant
from torchlift.messages import CUDA_GRAPH, entrant_text, failure_text
from torchlift.pipelines.texts import SEQUENCE
from torchlift.progress import Progress
from torchlift.signature import Axis, Profile, Signature
from torchlift.stages import BenchOptions, build_variant, contenders_of, convert_component, verify_all, workloads
from torchlift.stages.samples import goldens_as_samples
from torchlift.timing.latency import Contender, LatencyOptions, Workload, measure_latency
from torchlift.timing.scaling import measure_scaling

TEXTS = 1024

PADDED = f"{{}} texts padded to {CONTEXT}"


FP16 = {"tensorrt": ("fp16",), "onnxruntime-cuda": ("fp16",), "pytorch": ("fp16",)}


@dataclass(frozen=True)
class Subject:
    """A family with what is built and measured of it. ``profiles`` are those of TensorRT's engines.

    ``axes`` are those of its component other than the batch of pictures, where they are not the family's defaults.
    ``written`` is one of the functions of random_families.py, for a family with one full-size network there.
    """

    family: str
    profiles: tuple[str, ...]
    recipes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: FP16)
    batches: tuple[int, ...] = (1, 16)
    baseline: Entrant = EAGER
    sizes: Mapping[str, int] = field(default_factory=dict)
    axes: tuple[Axis, ...] = ()
    written: str = ""

    @property
    def most(self) -> int:
        """The largest batch of pictures, or of a family's only component."""
        return max(self.batches) if self.written else BATCH


CLIP = Subject(
    family="chinese-clip",
    profiles=("image.batch=1", f"text.batch=1,text.sequence={CONTEXT}", f"text.batch=1:{BATCH}:{2 * BATCH}"),
    batches=(1, BATCH),
    sizes={"sequence": CONTEXT},
)
MOBILEVIT = Subject(
    family="mobilevit",
    profiles=("batch=1:4:8",),
    recipes={
        "tensorrt": ("fp32", "fp16", "int8", "int8-fp16"),
        "onnxruntime-cuda": ("fp32", "fp16"),
        "pytorch": ("fp32", "fp16"),
    },
    batches=(1, 4, 8),
    baseline=replace(EAGER, precision="fp32"),
)


def _sized(**sizes: int) -> dict[str, Any]:
    """One size of each axis, in TensorRT's engines and in what is measured."""
    said = "".join(f",{name}={size}" for name, size in sizes.items())
    return {"profiles": (f"batch=1{said}", f"batch=16{said}"), "sizes": sizes}


FAMILIES = {
    "bert": Subject("bert", **_sized(sequence=128), written="write_bert"),
    "swin": Subject("swin", **_sized(), written="write_swin"),
    "yolov5": Subject(
        "yolov5",
        **_sized(height=640, width=640),
        axes=(Axis("height", 320, 640, 640, 32), Axis("width", 320, 640, 640, 32)),
        written="write_yolov5",
    ),
    "srcnn": Subject("srcnn", **_sized(height=256, width=256), written="write_srcnn"),
}


def subject_of(size: str) -> Subject:
    """A family by its name, MobileViT by a size of it, or Chinese-CLIP by one."""
    return FAMILIES.get(size) or (MOBILEVIT if size.startswith("mobilevit") else CLIP)


class Said(Progress):
    """Prints what the stages note."""

    def note(self, text: str) -> None:
        print(f"note: {text}", flush=True)


def checkpoint_of(size: str, work: Path) -> Path:
    """Where the checkpoint of a size is written, or a family's folder with its network."""
    if subject_of(size).written:
        return work / f"{size}.network"
    return work / (f"{size}.pth.tar" if subject_of(size) is MOBILEVIT else f"{size}.pt")


def prepare(size: str, work: Path) -> None:
    """Write the checkpoint, and the bundle with its graphs, in every form that is built from, and programs. The ranges
    that FP16 needs are of all goldens but the largest, which would take longest.
    """
    from torchlift.jobs.ship import export

    subject = subject_of(size)
    bundle = export(source_of(size, work), work / size, forms=("program",))
    forms = {backend(name).recipe(recipe).form.name for name, recipes in subject.recipes.items() for recipe in recipes}
    samples = replace(goldens_as_samples(bundle), given=True)
    few = replace(samples, of=lambda component: samples.of(component)[:-1])
    for component in bundle.manifest.components:
        for form in forms:
            convert_component(bundle, component, [form], few if form == "fp16" else samples)


def source_of(size: str, work: Path) -> Any:
    """The checkpoint, written on the first call."""
    from torchlift.families.base import LoadOptions
    from torchlift.jobs.source import Source

    subject = subject_of(size)
    axes = (Axis("batch", 1, 8, subject.most), *subject.axes)
    options = LoadOptions(axes={"image" if subject is CLIP else "": {axis.name: axis for axis in axes}})
    return Source(subject.family, str(_written(size, checkpoint_of(size, work))), options=options)


def _written(size: str, place: Path) -> Path:
    """The checkpoint with random weights at ``place``, or in the folder ``place``; written where it is not there."""
    import random_checkpoint
    import random_families

    subject = subject_of(size)
    if subject.written:
        return getattr(random_families, subject.written)(place)
    if not place.is_file():
        write = random_checkpoint.write_mobilevit if subject is MOBILEVIT else random_checkpoint.write_checkpoint
        write(size, place)
    return place


def copy_of(size: str, work: Path, name: str, component: str, recipe: str) -> Path:
    """Every engine is built in a copy of the bundle, so that several can be built at once, and by another Python; what
    builds in seconds shares the bundle.
    """
    path = work / f"{size}.{component}.{name}-{recipe}" if name == "tensorrt" else work / size
    if not path.is_dir():
        shutil.copytree(work / size, path)
    return path


def build(
    size: str,
    work: Path,
    names: Sequence[str],
    components: Sequence[str],
    recipes: Sequence[str],
    profiles: Sequence[str],
) -> None:
    """Build and verify what is not built; seconds of each build go into a file beside the bundle."""
    subject = subject_of(size)
    options = CompileOptions(tuple(Profile.parse(text) for text in profiles or subject.profiles))
    for component in _chosen(Bundle.open(work / size), components):
        for name in names:
            for recipe in recipes or subject.recipes[name]:
                _build(Bundle.open(copy_of(size, work, name, component.name, recipe)), component, name, recipe, options)


def _build(bundle: Bundle, component: Component, name: str, recipe: str, options: CompileOptions) -> None:
    before, start = {v.key for v in bundle.manifest.variants if not v.failure}, time.perf_counter()
    variant = build_variant(bundle, component, name, recipe, Said(), options)
    seconds = time.perf_counter() - start
    verify_all(bundle, [variant], progress=Said())
    if variant.key not in before and not variant.failure:
        _seconds_of(bundle, variant).write_text(json.dumps(seconds))
    print(f"{variant.name}: {seconds:.0f} s, {_state(bundle, variant)}", flush=True)


def _seconds_of(bundle: Bundle, variant: Variant) -> Path:
    return bundle.path.with_name(f"{bundle.path.name}.{variant.name.replace('/', '.')}.seconds")


def _state(bundle: Bundle, variant: Variant) -> str:
    variant = bundle.manifest.variant(variant.name)
    if variant.failure or variant.verification is None:
        return f"not built: {variant.failure}"
    return (
        "verified"
        if variant.verification.passed
        else f"out of tolerance: {failure_text(variant.verification.failures[0])}"
    )


def peers_of(size: str, work: Path, component: str) -> list[Contender]:
    """PyTorch, and ONNX Runtime as it comes."""
    from torchlift.jobs.peers import peers

    bundle = Bundle.open(work / size)
    found = peers(source_of(size, work), component, compiled=True, cuda_graph=True)
    if subject_of(size).recipes is FP16:
        found = [peer for peer in found if peer.entrant.precision == "fp16"]
    graph = bundle.manifest.graph(component, "fp16")
    if graph is not None and graph.model:
        signature = bundle.manifest.component(component).signature
        opener = partial(PlainOnnxRuntime, bundle.file(graph.model).absolute(), signature)
        found.append(Contender(Entrant("onnxruntime cuda fp16, plain", "fp16"), opener))
    return found


def built(size: str, work: Path, component: str) -> Iterator[tuple[Bundle, Variant]]:
    """Our variants of a component, each with the bundle that it is in."""
    for name, recipes in subject_of(size).recipes.items():
        for recipe in recipes:
            bundle = Bundle.open(copy_of(size, work, name, component, recipe))
            yield from ((bundle, v) for v in bundle.manifest.variants if v.name == f"{component}/{name}/{recipe}")


def ours_of(
    size: str, work: Path, component: str, python: Interpreter | None, failed: dict[str, str]
) -> list[Contender]:
    """The variants that were built and verified, as they are and replaying CUDA graphs."""
    found = []
    for bundle, variant in built(size, work, component):
        state = _state(bundle, variant)
        if variant.failure or variant.verification is None:
            failed[variant.name] = state
            continue
        if state != "verified":
            failed[variant.name] = f"measured, but {state}"
        opened = contenders_of(bundle, variant, graphed=True)
        if not any(contender.entrant.cuda_graph for contender in opened):
            failed[f"{variant.name}{CUDA_GRAPH}"] = "its verification replayed no CUDA graph"
        found += [replace(c, python=python if variant.backend == "tensorrt" else None) for c in opened]
    return found


def measure(
    size: str, work: Path, python: Interpreter | None, components: Sequence[str], rounds: int
) -> Iterator[dict[str, Any]]:
    """Measure every component at every size; yields what was found, each time that there is more."""
    subject, bundle = subject_of(size), Bundle.open(work / size)
    result = _empty(size)
    for component in _chosen(bundle, components):
        ours = ours_of(size, work, component.name, python, result["failed"])
        contenders = [*peers_of(size, work, component.name), *ours]
        loads = _loads(subject, bundle, component, subject.batches)
        options = LatencyOptions(rounds=rounds, turn_seconds=0.15, warmups=3)
        benchmark = measure_latency(contenders, loads, baseline=subject.baseline, options=options)
        result["components"][component.name] = benchmark
        result["failed"] |= {entrant_text(x.contender): x.detail for x in benchmark.failures}
        result["facts"] |= _facts(size, work, component.name)
        yield result


def stream(size: str, work: Path, python: Interpreter | None, rounds: int) -> dict[str, Any]:
    """Measure texts of realistic length."""
    result = _empty(size)
    ours = ours_of(size, work, "text", python, result["failed"])
    signature = Bundle.open(work / size).manifest.component("text").signature
    benchmark = by_length([*peers_of(size, work, "text"), *ours], signature, rounds)
    result["components"]["texts of realistic length"] = benchmark
    result["failed"] |= {entrant_text(x.contender): x.detail for x in benchmark.failures}
    return result


def _empty(size: str) -> dict[str, Any]:
    return {"size": size, "components": {}, "failed": {}, "facts": {}}


def _chosen(bundle: Bundle, names: Sequence[str]) -> list[Component]:
    return [c for c in bundle.manifest.components if not names or c.name in names]


def _loads(subject: Subject, bundle: Bundle, component: Component, batches: Sequence[int]) -> list[Workload]:
    """Inputs of these batches, or as many as the component takes."""
    sizes = {k: v for k, v in subject.sizes.items() if any(a.name == k for a in component.signature.axes)}
    most = component.signature.axis("batch").max
    return workloads(bundle, component, BenchOptions(tuple(min(batch, most) for batch in batches), sizes))


def by_length(contenders: Sequence[Contender], signature: Signature, rounds: int) -> Benchmark:
    """TEXTS captions by what replays CUDA graphs: padded to the context by torch.compile, BATCH and as many as the
    signature admits at a time, and by ours in the batches of a pipeline, of at most BATCH texts and by default.
    """
    most = signature.axis("batch").max
    ids = captions_as_ids(TEXTS)
    found = []
    for contender in contenders:
        if contender.entrant == COMPILED:
            ways = {PADDED.format(rows): partial(padded, size=rows) for rows in (BATCH, most)}
        elif contender.entrant.name.startswith("text/") and contender.entrant.cuda_graph:
            tokens = f"at most {most * signature.axis(SEQUENCE).opt} tokens"
            ways = {f"at most {BATCH} texts": partial(by_likeness, size=BATCH), tokens: by_likeness}
        else:
            continue
        for how, cut in ways.items():
            entrant = _streamed(contender.entrant, how)
            found.append(replace(contender, entrant=entrant, open=partial(Stream, contender.open, cut)))
    load = Workload({"batch": len(ids)}, {"text": ids})
    options = LatencyOptions(rounds=rounds, turn_seconds=0.15)
    return measure_latency(found, [load], baseline=_streamed(COMPILED, PADDED.format(BATCH)), options=options)


def _streamed(entrant: Entrant, how: str) -> Entrant:
    """A contender under a name that says how it got its texts."""
    return Entrant(f"{entrant_text(entrant)}, {how}", entrant.precision)


def scale(size: str, work: Path, python: Interpreter | None, components: Sequence[str]) -> None:
    """Print as Markdown how many samples a second our variants compute with CUDA graphs, at the largest batch, on 1, 2,
    4, ... and all GPUs.
    """
    print("| contender | batch | GPUs | samples a second | times one GPU |\n|---|--:|--:|--:|--:|")
    subject, bundle, failed, seen = subject_of(size), Bundle.open(work / size), {}, []
    for component in _chosen(bundle, components):
        ours = [c for c in ours_of(size, work, component.name, python, failed) if c.entrant.cuda_graph]
        loads = _loads(subject, bundle, component, subject.batches[-1:])
        scaling = measure_scaling(ours, loads, range(len(gpus())), Said())
        found = scaling.throughputs
        alone = {x.contender: x.samples for x in found if x.devices == 1}
        failed |= {entrant_text(x.contender): x.detail for x in scaling.failures}
        for x in found:
            rate, times = x.samples, x.samples / alone[x.contender]
            print(
                f"| {entrant_text(x.contender)} | {x.sizes['batch']} | {x.devices} | {rate:,.0f} | {times:.2f} |",
                flush=True,
            )
        seen += scaling.conditions
    print("", *map(described, seen), sep="\n\n")
    for name, reason in failed.items():
        print(f"- {name}: {reason}")


def _facts(size: str, work: Path, component: str) -> dict[str, Any]:
    """Seconds to build and bytes of each of our variants."""
    facts = {}
    for bundle, variant in built(size, work, component):
        file = _seconds_of(bundle, variant)
        seconds = json.loads(file.read_text()) if file.is_file() else None
        facts[variant.name] = [seconds, bundle.manifest.size(variant)]
    return facts


def interpreter(text: str) -> Interpreter | None:
    """``NAME=VALUE ... EXECUTABLE`` as another Python; None for an empty text."""
    words = shlex.split(text)
    if not words:
        return None
    environment = dict(word.split("=", 1) for word in words[:-1])
    return Interpreter(words[-1], environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["prepare", "build", "measure", "stream", "scale"])
    parser.add_argument("subjects", nargs="+", help="such as ViT-B-16, mobilevit-xxs or bert")
    parser.add_argument("--work", type=Path, default=Path("bench"), help="where checkpoints and bundles are kept")
    parser.add_argument("--backend", action="append", default=[])
    parser.add_argument("--component", action="append", default=[], help="only this one")
    parser.add_argument("--recipe", action="append", default=[], help="only this one")
    parser.add_argument("--profile", action="append", default=[], help="TensorRT's, instead of the usual")
    parser.add_argument("--tensorrt", default="", help="NAME=VALUE ... PYTHON: where TensorRT is")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="where the result goes")
    given = parser.parse_args()
    if given.json and len(given.subjects) > 1:
        parser.error("--json is of one subject")
    python = interpreter(given.tensorrt)
    for subject in given.subjects:
        file = given.json or Path(f"{subject}.text.stream.json" if given.step == "stream" else f"{subject}.json")
        if given.step == "prepare":
            prepare(subject, given.work)
        elif given.step == "build":
            build(subject, given.work, given.backend, given.component, given.recipe, given.profile)
        elif given.step == "measure":
            for result in measure(subject, given.work, python, given.component, given.rounds):
                file.write_bytes(msgspec.json.encode(result))
        elif given.step == "stream":
            file.write_bytes(msgspec.json.encode(stream(subject, given.work, python, given.rounds)))
        else:
            scale(subject, given.work, python, given.component)


if __name__ == "__main__":
    sys.exit(main())
