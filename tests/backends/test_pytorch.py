import numpy as np
import pytest
import tiny

from torchlift.errors import SignatureError
from torchlift.signature import Axis, Signature, TensorSpec

torch = pytest.importorskip("torch")

from torchlift.backends import SessionOptions  # noqa: E402
from torchlift.backends.pytorch import TorchSession  # noqa: E402

TWO = Signature(
    (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("shift", "float32", (3,))),
    (TensorSpec("sum", "float32", ("batch", 3)), TensorSpec("kept", "float32", ("batch", 3))),
    (Axis("batch", 1, 2, 4),),
)


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


def test_it_says_what_runs_and_takes_the_threads_that_were_asked_for():
    session = TorchSession(Network(), TWO, SessionOptions(1))
    assert session.runtime == f"torch {torch.__version__} eager"
    assert torch.get_num_threads() == 1
