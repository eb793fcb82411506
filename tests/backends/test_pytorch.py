"""PyTorch as a backend: what it says of itself without being imported, and modules as sessions."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from torchlift.backends import BACKENDS, SessionOptions, backend
from torchlift.backends.pytorch import PROGRAM, gpu_of, torch_build
from torchlift.errors import BackendError, BackendUnavailableError, DeviceMemoryError, SignatureError
from torchlift.machine import Gpu, RunOn, this_machine
from torchlift.signature import Axis, Signature, TensorSpec

torch = pytest.importorskip("torch")

from torchlift.backends.pytorch import gpu as gpu_module  # noqa: E402
from torchlift.backends.pytorch.session import TorchSession, open_module  # noqa: E402

TWO = Signature(
    (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("shift", "float32", (3,))),
    (TensorSpec("sum", "float32", ("batch", 3)), TensorSpec("kept", "float32", ("batch", 3))),
    (Axis("batch", 1, 2, 4),),
)


PYTORCH = backend("pytorch")
H200 = Gpu("NVIDIA H200", "9.0", 150754820096, "580.95.05")
CUDA_BUILD = """from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']
__version__ = '2.11.0+cu130'
debug = False
cuda: Optional[str] = '13.0'
git_version = '70d99e998b4955e0049d13a98d77ae1b14db1f45'
hip: Optional[str] = None
"""
"""What torch/version.py says in the wheel of 2.11 for CUDA 13."""


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x, shift):
        self.calls += 1
        return x + shift, self.drop(x)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_answers_as_the_module_does_with_dropout_off():
    feeds = {"shift": np.arange(3, dtype=np.float32), "x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    found = TorchSession(Network().train(), TWO).run(feeds)
    assert list(found) == ["sum", "kept"]
    assert np.array_equal(found["sum"], feeds["x"] + feeds["shift"])
    assert np.array_equal(found["kept"], feeds["x"])


def test_one_output_needs_no_tuple():
    matrix, bias = map(torch.from_numpy, tiny.weights())
    layer = torch.nn.Linear(tiny.WIDTH, tiny.OUTPUTS)
    layer.load_state_dict({"weight": matrix.T, "bias": bias})
    session = TorchSession(torch.nn.Sequential(layer, torch.nn.ReLU()), tiny.SIGNATURE)
    x = np.asfortranarray(tiny.sample(4))
    found = session.run({"x": x})["y"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tiny.answer(x), rtol=1e-5, atol=1e-5)


def test_a_prepared_call_runs_the_module_each_time():
    network = Network()
    call = TorchSession(network, TWO).prepare({"x": np.ones((1, 3), np.float32), "shift": np.ones(3, np.float32)})
    call()
    call()
    assert network.calls == 2


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(SignatureError, match="missing shift"):
        TorchSession(Network(), TWO).run({"x": np.ones((1, 3), np.float32)})


@pytest.mark.parametrize("method", ["run", "prepare"])
def test_what_the_module_raises_is_an_error_with_a_remedy(method):
    row = Signature((TensorSpec("row", "int64", (1,)),), (TensorSpec("y", "float32", (1, 3)),))
    session, feeds = open_module(torch.nn.Embedding(4, 3), row), {"row": np.array([9])}
    with pytest.raises(BackendError, match="cannot run this: index out of range") as caught:
        session.run(feeds) if method == "run" else session.prepare(feeds)()
    assert caught.value.remedy


def test_it_says_what_runs_and_takes_the_threads_that_were_asked_for():
    session = TorchSession(Network(), TWO, SessionOptions(RunOn(1)))
    assert session.runtime == f"torch {torch.__version__} eager"
    assert torch.get_num_threads() == 1


class Kinds(torch.nn.Module):
    """Remembers the types of what it is given."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.given = None

    def forward(self, x, ids):
        self.given = (x.dtype, ids.dtype)
        return self.layer(x), ids + 1


KINDS = Signature(
    (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("ids", "int64", ("batch",))),
    (TensorSpec("y", "float32", ("batch", 3)), TensorSpec("next", "int64", ("batch",))),
    TWO.axes,
)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_module_computes_in_the_precision_that_was_asked_for_and_answers_in_the_signatures(precision, dtype):
    module, x = Kinds(), np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    right = module.layer(torch.from_numpy(x)).detach().numpy()
    session = TorchSession(module, KINDS, precision=precision)
    found = session.run({"x": x, "ids": np.arange(2)})
    assert module.given == (dtype, torch.int64)
    assert module.layer.weight.dtype == dtype
    assert (found["y"].dtype, found["next"].tolist()) == (np.float32, [1, 2])
    np.testing.assert_allclose(found["y"], right, atol=0 if precision == "fp32" else 0.02)
    assert ("bf16" in session.runtime) == (precision == "bf16")


def test_a_compiled_module_answers_as_it_does_eagerly():
    x = tiny.sample(3)
    layer = torch.nn.Linear(tiny.WIDTH, tiny.OUTPUTS)
    session = open_module(layer, tiny.SIGNATURE, compiled=True)
    expected = TorchSession(layer, tiny.SIGNATURE).run({"x": x})["y"]
    assert session.runtime == f"torch {torch.__version__} compile"
    np.testing.assert_allclose(session.run({"x": x})["y"], expected, rtol=1e-5, atol=1e-5)
    session.close()


def test_asking_the_backend_does_not_import_torch(python):
    done = python(
        """
from torchlift.backends import BACKENDS, backend
found = backend("pytorch")
print(found.available(), found.version(), [found.supports(r) for r in found.recipes], "torch" in sys.modules)
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("False")
    assert "Availability(ok=True" in done.stdout


def test_it_is_the_last_backend_needs_torch_and_is_made_only_where_it_is_named():
    assert [*BACKENDS][-1] == "pytorch"
    assert (PYTORCH.needs, PYTORCH.asked_for, PYTORCH.opens_graphs, PYTORCH.replays) == ("torch", True, True, True)
    assert {recipe.form for recipe in PYTORCH.recipes.values()} == {PROGRAM}
    assert PYTORCH.precisions == ("fp32", "bf16", "fp16")


def test_the_installed_torch_is_read_from_its_own_file():
    found = torch_build()
    assert found.version == torch.__version__
    assert found.cuda == (torch.version.cuda is not None)


@pytest.mark.parametrize("missing", [None, ImportError("refused")])
def test_without_torch_it_says_what_to_install(monkeypatch, missing):
    def find_spec(name):
        if missing:
            raise missing

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr("torchlift.backends.pytorch.torch_build", torch_build.__wrapped__)
    state = PYTORCH.available()
    assert (state.ok, state.detail, state.remedy) == (False, "torch is not installed", 'pip install "torchlift[torch]"')
    assert PYTORCH.version() == "torch"
    with pytest.raises(BackendUnavailableError, match="pytorch cannot be used: torch is not installed"):
        PYTORCH.open(Path("model.pt2"), TWO)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Maker of a machine by its GPUs and its processor's instructions, with a torch that is built for CUDA or not."""

    def make(*gpus, cuda=True, instructions=()):
        (tmp_path / "version.py").write_text(CUDA_BUILD if cuda else CUDA_BUILD.replace("'13.0'", "None"))
        spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
        monkeypatch.setattr("torchlift.backends.pytorch.torch_build", torch_build.__wrapped__)
        monkeypatch.setattr("torchlift.backends.pytorch.gpus", lambda: gpus)
        here = replace(this_machine(), processor="Xeon", instructions=instructions)
        monkeypatch.setattr("torchlift.backends.pytorch.this_machine", lambda: here)

    return make


def test_on_a_gpu_its_version_names_gpu_and_driver(machine):
    machine(H200)
    assert PYTORCH.version() == "torch 2.11.0+cu130 on NVIDIA H200, driver 580.95.05"
    assert PYTORCH.available().detail == PYTORCH.version()
    assert [PYTORCH.supports(r).ok for r in PYTORCH.recipes] == [True, True, True]


@pytest.mark.parametrize(("gpus", "cuda"), [((), True), ((H200,), False)])
def test_without_a_gpu_that_torch_is_built_for_it_runs_on_the_processor(machine, gpus, cuda):
    machine(*gpus, cuda=cuda)
    assert gpu_of() is None
    assert PYTORCH.version() == "torch 2.11.0"
    assert PYTORCH.available().detail == "torch 2.11.0, CPU"
    assert PYTORCH.supports("fp16").detail == "on a processor pytorch gains nothing by fp16"
    assert PYTORCH.supports("bf16").detail == "Xeon has no bf16 instructions"
    machine(*gpus, cuda=cuda, instructions=("amx_bf16",))
    assert PYTORCH.supports("bf16").ok


@pytest.mark.parametrize("gpus", [(), (H200,)])
def test_on_a_gpu_it_needs_triton(machine, monkeypatch, gpus):
    machine(*gpus)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find_spec(name))
    state = PYTORCH.available()
    assert state.ok is not bool(gpus)
    if gpus:
        said = "triton is not installed, which compiles for the GPU"
        assert (state.detail, state.remedy) == (said, "pip install triton")


def test_an_older_gpu_lacks_bf16(machine):
    machine(replace(H200, name="Tesla T4", capability="7.5"))
    state = PYTORCH.supports("bf16")
    assert (state.ok, state.detail) == (False, "Tesla T4 does not compute in bf16")
    assert PYTORCH.supports("fp16").ok


def test_each_gpu_has_an_ordinal(machine):
    machine(H200, replace(H200, name="NVIDIA L4"))
    assert gpu_of(SessionOptions(RunOn(device=1))).name == "NVIDIA L4"
    with pytest.raises(BackendUnavailableError, match="there is no GPU 2") as caught:
        gpu_of(SessionOptions(RunOn(device=2)))
    assert "0..1" in caught.value.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU here")
def test_a_gpu_that_torch_cannot_use_is_not_silently_replaced_by_the_processor(monkeypatch):
    for module in ("session", "gpu"):
        monkeypatch.setattr(f"torchlift.backends.pytorch.{module}.gpu_of", lambda options=None: H200)
    with pytest.raises(BackendUnavailableError, match=r"cannot use NVIDIA H200, driver 580\.95\.05") as caught:
        open_module(Network(), TWO)
    assert "CUDA_VISIBLE_DEVICES=" in caught.value.remedy


def test_a_full_gpu_is_an_error_of_its_own():
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.81 GiB"
    with (
        pytest.raises(
            DeviceMemoryError, match=r"does not suffice: CUDA out of memory\. Tried to allocate 2\.00 GiB\n"
        ) as caught,
        gpu_module.memory_errors(),
    ):
        raise torch.OutOfMemoryError(said)
    assert "smaller batches" in caught.value.remedy


def test_nothing_is_built_from_onnx(tmp_path):
    with pytest.raises(BackendError, match=r"nothing is built from model\.onnx") as caught:
        PYTORCH.build(tmp_path / "model.onnx", tmp_path, TWO)
    assert "`program=`" in caught.value.remedy
