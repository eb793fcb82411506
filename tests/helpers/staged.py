"""What the tests of the stages share: who listens to progress, and evidence that is made up."""

import pickle
from dataclasses import replace

import numpy as np
from safetensors.numpy import save_file

from torchlift.evidence import Benchmark, DataFacts, Entrant, Gate, Interval, Latency, NotMeasured, Ran, Score, Scoring
from torchlift.machine import this_machine
from torchlift.progress import Progress
from torchlift.prove.verify import provenance
from torchlift.stages import BenchOptions
from torchlift.timing.latency import LatencyOptions

ORT, OV, BF16 = "model/onnxruntime/fp32", "model/openvino/fp32", "model/openvino/bf16"
QUICK = BenchOptions(latency=LatencyOptions(rounds=2, turn_seconds=0.01, pause_seconds=0))
DATA = DataFacts("pictures", "images", {"images": 200}, "0" * 64)


class Recorder(Progress):
    """Remembers the titles of the stages, and the notes."""

    def __init__(self):
        self.titles = []
        self.notes = []

    def stage(self, title, total=None):
        self.titles.append(title)
        return super().stage(title, total)

    def note(self, text):
        self.notes.append(text)


def component_of(bundle):
    return bundle.manifest.component("model")


def stamps(bundle, variant):
    return {p: (bundle.file(p).stat().st_ino, bundle.file(p).stat().st_mtime_ns) for p in variant.files}


def entrant(name):
    """A variant as it is measured."""
    return Entrant(name, name.rpartition("/")[2].partition("-")[0])


def graphed(name):
    """A variant as it is measured replaying CUDA graphs."""
    return replace(entrant(name), cuda_graph=True)


def latency(contender, median, batch=1):
    """The times of a contender, or of a variant by its name, that always takes ``median`` ms."""
    contender = entrant(contender) if isinstance(contender, str) else contender
    return Latency(
        contender, {"batch": batch}, 20, median, 0.1, median, median, median, median, median, 1e3 * batch / median
    )


def benchmark(*latencies, failures=None):
    """``failures`` are texts by contender, or by a variant's name."""
    failed = tuple(
        NotMeasured(entrant(who) if isinstance(who, str) else who, said) for who, said in (failures or {}).items()
    )
    return Benchmark(this_machine(), "2030-01-01T00:00:00+00:00", 2, 2, None, latencies, failures=failed)


def made_up(contenders, workloads, *, baseline, files, **_):
    """In place of measuring, which takes a process for each contender: the later one was built, the faster it is."""
    medians = {contender.entrant: 8 / (1 + place) for place, contender in enumerate(contenders)}
    times = [
        replace(
            latency(who, median, workload.sizes.get("batch", 1)),
            speedup=None if who == baseline else interval(medians[baseline] / median),
        )
        for workload in workloads
        for who, median in medians.items()
    ]
    ran = tuple(Ran(contender.entrant, "made up") for contender in contenders)
    return replace(benchmark(*times), baseline=baseline, files=files, runtimes=ran)


def in_this_process(contenders, workloads, *, baseline, files, **more):
    """In place of measuring: each contender is opened as its process would open it, and answers; times are made up."""
    ran = []
    for contender in contenders:
        with pickle.loads(pickle.dumps(contender)).open() as session:
            for workload in workloads:
                session.run(workload.feeds)
            ran.append(Ran(contender.entrant, session.runtime))
    found = made_up(contenders, workloads, baseline=baseline, files=files, **more)
    sizes = [dict(workload.sizes) for workload in workloads for _ in contenders]
    times = [replace(time, sizes=those) for time, those in zip(found.latencies, sizes, strict=True)]
    return replace(found, latencies=tuple(times), runtimes=tuple(ran))


def interval(value):
    """An interval as wide as 1 to either side."""
    return Interval(value, value - 1, value + 1)


def score(bundle, variant, **drops):
    """What a variant would have scored here had it lost ``drops`` points of 90, by metric."""
    return Score(
        provenance=provenance(bundle, bundle.manifest.variant(variant)),
        metrics={metric: interval(90 - drop) for metric, drop in drops.items()},
        drops={metric: interval(drop) for metric, drop in drops.items()},
    )


def put_scores(bundle, gate, scores):
    """Hold a bundle to a gate, and give it scores by variant."""
    with bundle.adding("scores") as added:
        save_file({"model": np.zeros((1, 1), np.float32)}, added.path / "answers.safetensors")
    metrics = {metric: interval(90.0) for metric in gate.within or ("top1",)}
    answers = f"{added.folder}/answers.safetensors"
    scoring = Scoring("classification", next(iter(metrics)), DATA, "pytorch", metrics, answers, scores)
    bundle.commit(replace(bundle.manifest, scoring=scoring, gate=gate), added.files)


def top1(limit, objective="latency"):
    return Gate({"top1": limit}, objective)
