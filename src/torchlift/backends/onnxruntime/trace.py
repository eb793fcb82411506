"""The process in which a session runs with ONNX Runtime's profiler on. profile.py starts it with a folder."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Read traced.json and feeds.npz from ``folder``, run the session, and write profile.json there."""
    import onnxruntime as ort

    traced = json.loads((folder / "traced.json").read_text())
    with np.load(folder / "feeds.npz") as archive:
        feeds = {name.removeprefix("feed_"): archive[name] for name in archive.files}
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = traced["threads"]
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, traced["level"])
    settings.enable_profiling = True
    settings.profile_file_prefix = str(folder / "run")
    providers = [(name, options) for name, options in traced["providers"]]
    if providers[0][0] != "CPUExecutionProvider":
        ort.preload_dlls()
    if providers[0][0] == "TensorrtExecutionProvider":
        with contextlib.suppress(ImportError):
            import tensorrt  # noqa: F401, its libraries are found once they are loaded
    session = ort.InferenceSession(
        traced["model"],
        settings,
        providers=providers,
        disabled_optimizers=traced["disabled_optimizers"],
        enable_fallback=0,
    )
    ran = session.get_providers()[0]
    if ran != providers[0][0]:
        sys.exit(f"{providers[0][0]} was asked for, {ran} would run the model")
    for _ in range(traced["runs"] + 1):
        session.run(None, feeds)
    Path(session.end_profiling()).rename(folder / "profile.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
