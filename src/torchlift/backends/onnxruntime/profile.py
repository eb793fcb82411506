"""What each layer costs, by ONNX Runtime's own profiler, in a process that does nothing else."""

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
"""What the profiler appends to a node's name for the time of its kernel (its other events fence kernels)."""

_PRECISIONS = {
    "float": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "double": "fp64",
    "int8": "int8",
    "uint8": "int8",
}
"""ONNX Runtime's name of a tensor's type -> precision."""

_SYNCHRONOUS = {"CUDA_LAUNCH_BLOCKING": "1"}
"""The profiler reads the host's clock around each kernel's launch: on a GPU a launch must last as long as its kernel,
or the times are those of launching. The variable counts only before CUDA starts."""


@dataclass(frozen=True)
class Traced:
    """A session whose layers are timed: as for a session that runs, with ``level`` a GraphOptimizationLevel and
    ``runs`` after one that does not count.
    """

    model: str
    providers: Sequence[tuple[str, Mapping[str, str]]]
    threads: int
    level: str
    disabled_optimizers: tuple[str, ...]
    runs: int


def layer_times(traced: Traced, feeds: Arrays) -> list[LayerTime]:
    """Run ``feeds`` in a process with the profiler on; the layers in the order in which they run.

    Raises BackendError, with the last line that the process wrote, where it fails.
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
    """The exit status of the process that works on ``folder``, and what it wrote as errors."""
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
    """The layers that a profile of ``runs`` runs, after one that does not count, tells of: a node that runs several
    times in a run, as in a loop, costs their sum. Names need not be unique, since ONNX Runtime's own fusions give one
    name to many; with its index a name is.
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
