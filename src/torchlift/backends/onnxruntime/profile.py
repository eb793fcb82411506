"""The time of each layer by ONNX Runtime's profiler, in a process that does nothing else."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchlift.backends.base import Arrays, LayerTime
from torchlift.errors import BackendError
from torchlift.interpreter import start

_KERNEL = "_kernel_time"
"""The profiler's suffix of a node's name for the event that has the time of its kernel."""

_PRECISIONS = {
    "float": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "double": "fp64",
    "int8": "int8",
    "uint8": "int8",
}
"""ONNX Runtime's name of a type -> precision."""

_SYNCHRONOUS = {"CUDA_LAUNCH_BLOCKING": "1"}
"""With this variable a launch of a kernel waits until the kernel is done. The profiler reads the host's clock before
and after a launch, so without it the times would be those of launching. It must be set before CUDA starts.
"""


@dataclass(frozen=True)
class Traced:
    """What the process needs to know to open a session and time its layers.

    ``level`` is the name of a GraphOptimizationLevel. ``runs`` are timed, after one that does not count.
    """

    model: str
    providers: Sequence[tuple[str, Mapping[str, str]]]
    threads: int
    level: str
    disabled_optimizers: tuple[str, ...]
    runs: int


def layer_times(traced: Traced, feeds: Arrays) -> list[LayerTime]:
    """Run ``feeds`` in a process with the profiler on. Returns the layers in the order in which they run.

    Raises BackendError where the process fails, with the last line that it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="torchlift-") as name:
        folder = Path(name)
        (folder / "traced.json").write_text(json.dumps(asdict(traced)))
        arrays: dict[str, Any] = {f"feed_{name}": array for name, array in feeds.items()}
        np.savez(folder / "feeds.npz", **arrays)
        code, words = _traced(folder)
        profile = folder / "profile.json"
        if code or not profile.exists():
            said = words.strip().splitlines() or [f"it ended with {code}"]
            raise BackendError(
                f"the layers of {Path(traced.model).name} could not be timed: {said[-1]}",
                remedy="Open the model and run it once: the error is the same there.",
            )
        return read_profile(json.loads(profile.read_text()), traced.runs)


def _traced(folder: Path) -> tuple[int, str]:
    """Run the process on ``folder``; returns its exit status and what it wrote to stderr."""
    process = start(
        "torchlift.backends.onnxruntime.trace",
        str(folder),
        environment=_SYNCHRONOUS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    with process:
        try:
            _, said = process.communicate()
        except BaseException:
            process.kill()
            raise
    return process.returncode, said


def read_profile(events: Iterable[Mapping[str, Any]], runs: int) -> list[LayerTime]:
    """The layers in a profile of ``runs`` runs and one run before them that does not count.

    The time of a node that runs several times in one run, as in a loop, is the sum. Nodes are told apart by name and
    index, since ONNX Runtime gives one name to many nodes that it fused.
    """
    events = sorted(events, key=lambda e: e.get("ts", 0))
    starts = [event["ts"] for event in events if event.get("name") == "model_run"]
    counted = starts[1] if len(starts) > 1 else 0
    spent: dict[tuple[str, str], float] = defaultdict(float)
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL) and event["ts"] >= counted:
            place = event["name"].removesuffix(_KERNEL), event["args"].get("node_index", "")
            spent[place] += event["dur"] * 1e-6
            last[place] = event["args"]
    return [_layer(place[0], args, spent[place] / runs) for place, args in last.items()]


def _layer(name: str, args: Mapping[str, Any], seconds: float) -> LayerTime:
    written = next((kind for shaped in args.get("output_type_shape", ()) for kind in shaped), "")
    device = args["provider"].removesuffix("ExecutionProvider")
    return LayerTime(name, args["op_name"], (), _PRECISIONS.get(written, written), seconds, device)
