"""The Python values that a network was exported with."""

import pytest

torch = pytest.importorskip("torch")
from torchlift.families.module.binding import bind_example, bind_names  # noqa: E402
from torchlift.families.module.constants import constants_of  # noqa: E402


class Net(torch.nn.Module):
    def forward(self, x, state=None, causal=False, scale=1.5, table=(1, 2)):
        return x


def test_defaults_of_parameters_that_got_nothing_are_constants():
    network = Net()
    assert constants_of(network, bind_names(network, ["x"])) == {"state": None, "causal": False, "scale": 1.5}
    assert constants_of(network, bind_names(network, ["x", "state"])) == {"causal": False, "scale": 1.5}


def test_values_that_were_given_are_constants_by_their_path():
    network, x = Net(), torch.zeros(2)
    binding, _ = bind_example(network, (x, {"a": x, "mode": "fast", "pair": (None, x)}, True))
    found = constants_of(network, binding)
    assert found == {"state.mode": "fast", "state.pair.0": None, "causal": True, "scale": 1.5}
    binding, _ = bind_example(network, {"x": x, "causal": True})
    assert constants_of(network, binding)["causal"] is True


def test_a_scripted_network_is_read_by_its_schema():
    network = torch.jit.script(torch.nn.ReLU())
    assert constants_of(network, bind_names(network, ["input"])) == {}
