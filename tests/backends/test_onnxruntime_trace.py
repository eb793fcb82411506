"""What the process does whose layers are timed, before it opens the session."""

import json
import sys

import numpy as np
import onnxruntime as ort
import pytest

from torchlift.backends.onnxruntime.trace import main


class OpenedError(Exception):
    """Stands for a session: says whether TensorRT's libraries were loaded before it."""


@pytest.mark.parametrize(
    ("provider", "loaded"), [("TensorrtExecutionProvider", True), ("CUDAExecutionProvider", False)]
)
def test_tensorrt_is_loaded_before_its_provider_is(tmp_path, monkeypatch, provider, loaded):
    def session(*given, **options):
        raise OpenedError("package_of_tensorrt" in sys.modules)

    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "tensorrt.py").write_text("import package_of_tensorrt")
    (packages / "package_of_tensorrt.py").write_text("")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", session)
    traced = {
        "model": "model.onnx",
        "providers": [(provider, {})],
        "threads": 1,
        "level": "ORT_DISABLE_ALL",
        "disabled_optimizers": [],
        "runs": 1,
    }
    (tmp_path / "traced.json").write_text(json.dumps(traced))
    np.savez(tmp_path / "feeds.npz", feed_x=np.zeros(1))
    kept = sys.modules.pop("tensorrt", None)
    try:
        with pytest.raises(OpenedError) as caught:
            main(tmp_path)
    finally:
        for name in ("tensorrt", "package_of_tensorrt"):
            sys.modules.pop(name, None)
        if kept is not None:
            sys.modules["tensorrt"] = kept
    assert caught.value.args == (loaded,)
