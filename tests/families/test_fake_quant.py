"""Checkpoints and networks with fake quantisation: by torch.ao itself, and in modelopt's spelling."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao import quantization as ao

from torchlift.errors import CheckpointError
from torchlift.families.base import LoadOptions
from torchlift.families.fake_quant import fold_norms, is_fake_quantised, modules_of, split_scales, take_scales
from torchlift.families.module import ModuleFamily
from torchlift.graph.scales import Scales, from_plain, to_plain

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.second, self.norm = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(self.quant(x))))
        x = self.norm(self.second(x))
        return self.dequant(self.fc(x.mean((2, 3))))


def prepared(fused=False, qconfig=None, train=True):
    """A network that was trained, for three steps of its observers, with torch.ao's fake quantisation."""
    torch.manual_seed(0)
    network = Net().train()
    if fused:
        ao.fuse_modules_qat(network, [["conv", "bn", "relu"]], inplace=True)
    network.qconfig = qconfig or ao.get_default_qat_qconfig("x86")
    ao.prepare_qat(network, inplace=True)
    if train:
        for _ in range(3):
            network(torch.randn(4, 3, 12, 12))
    return network.eval()


def observed(quantiser):
    return float(quantiser.activation_post_process.min_val), float(quantiser.activation_post_process.max_val)


class TestStateDicts:
    def test_weights_are_left_as_they_are(self):
        network = prepared()
        weights, _ = split_scales(network.state_dict())
        assert {*weights} == {*Net().state_dict()}
        assert all(torch.equal(weights[name], network.state_dict()[name]) for name in weights)

    def test_torch_ao(self):
        network = prepared()
        _, scales = split_scales(network.state_dict())
        assert {*scales} == {"quant", "conv", "bn", "relu", "second", "norm", "fc"} & {*scales}
        low, high = observed(network.quant.activation_post_process)
        assert scales["quant"] == Scales(output=(pytest.approx(low), pytest.approx(high)))
        found = scales["conv"].weight
        assert found.shape == (8,)
        np.testing.assert_allclose(found / 127, network.conv.weight_fake_quant.scale.numpy())
        whole = network.conv.weight.abs().amax((1, 2, 3)).detach().numpy()
        np.testing.assert_allclose(found, whole, rtol=0.02)
        assert scales["fc"].weight.shape == (5,)

    def test_ranges_hold_zero(self):
        state = {
            "a.activation_post_process.scale": torch.tensor([0.1]),
            "a.activation_post_process.activation_post_process.min_val": torch.tensor(2.0),
            "a.activation_post_process.activation_post_process.max_val": torch.tensor(3.0),
        }
        assert split_scales(state)[1]["a"].output == (0, 3)

    @pytest.mark.parametrize(
        ("zero", "expected"), [(0, (0, 25.5)), (100, (-10, 15.5)), (-128, (0, 25.5)), (-28, (-10, 15.5))]
    )
    def test_without_an_observer_ranges_follow_from_scale_and_zero_point(self, zero, expected):
        state = {"a.activation_post_process.scale": torch.tensor([0.1])}
        state["a.activation_post_process.zero_point"] = torch.tensor([zero])
        assert split_scales(state)[1]["a"].output == pytest.approx(expected)

    def test_learned_scales_come_before_what_the_observer_saw(self):
        state = {
            "a.activation_post_process.scale": torch.tensor([0.1]),
            "a.activation_post_process.zero_point": torch.tensor([0.0]),
            "a.activation_post_process.learning_enabled": torch.tensor([1]),
            "a.activation_post_process.activation_post_process.min_val": torch.tensor(0.0),
            "a.activation_post_process.activation_post_process.max_val": torch.tensor(99.0),
        }
        assert split_scales(state)[1]["a"].output == pytest.approx((0, 25.5))

    def test_one_that_was_switched_off_or_saw_nothing_counts_as_none(self):
        network = prepared()
        network.conv.weight_fake_quant.disable_fake_quant()
        network.quant.activation_post_process.disable_fake_quant()
        scales = split_scales(network.state_dict())[1]
        assert "quant" not in scales
        assert scales["conv"].weight is None
        fresh = split_scales(prepared(train=False).state_dict())[1]
        assert all(known.output is None for known in fresh.values())

    def test_weights_only(self):
        plain = ao.get_default_qat_qconfig("x86")
        qconfig = ao.QConfig(activation=nn.Identity, weight=plain.weight)
        _, scales = split_scales(prepared(qconfig=qconfig).state_dict())
        assert {*scales} == {"conv", "second", "fc"}
        assert all(known.input is known.output is None for known in scales.values())
        assert scales["second"].weight.shape == (8,)

    def test_modelopt(self):
        state = {
            "a.weight": torch.ones(2, 3),
            "a.input_quantizer._amax": torch.tensor(4.0),
            "a.weight_quantizer._amax": torch.tensor([[1.0], [2.0]]),
            "b.weight_quantizer._amax": torch.tensor(3.0),
            "b.output_quantizer._amax": torch.tensor(6.0),
            "c.q_bmm_quantizer._amax": torch.tensor(7.0),
            "c.softmax_quantizer._amax": torch.tensor(1.0),
        }
        weights, scales = split_scales(state)
        assert {*weights} == {"a.weight"}
        assert scales == {
            "a": Scales(input=(-4, 4), weight=np.array([1, 2], np.float32)),
            "b": Scales(output=(-6, 6), weight=np.array(3, np.float32)),
        }

    def test_observers_of_the_graph_mode_are_left_out(self):
        state = {"activation_post_process_0.scale": torch.ones(1), "a.weight": torch.ones(1)}
        assert split_scales(state) == ({"a.weight": state["a.weight"]}, {})

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("a.input_quantizer._pre_quant_scale", torch.ones(3), "multiplies its input by _pre_quant_scale"),
            ("a.weight_quantizer._amax", torch.tensor([1.0, -1.0]), "holds -1.0, which is no scale"),
            ("a.weight_quantizer._amax", torch.tensor([torch.inf]), "holds inf, which is no scale"),
            ("a.weight_quantizer._amax", torch.ones(2, 3), r"has shape \[2, 3\]: it is not one scale"),
        ],
    )
    def test_scales_that_cannot_be_kept_are_refused(self, name, value, message):
        with pytest.raises(CheckpointError, match=message):
            split_scales({name: value})

    def test_asymmetric_weights_are_refused(self):
        state = {"a.weight_fake_quant.scale": torch.ones(1), "a.weight_fake_quant.zero_point": torch.ones(1)}
        with pytest.raises(CheckpointError, match="has zero points other than 0"):
            split_scales(state)

    def test_only_modules_that_are_there(self):
        scales = {"fc": Scales(input=(0, 1)), "gone": Scales(input=(0, 1))}
        assert modules_of(Net(), scales) == {"fc": scales["fc"]}


def test_folding_a_norm_keeps_the_integers():
    """Quantised before or after folding, a weight falls on the same integers."""
    network = prepared()
    network = take_float(network)
    with torch.no_grad():
        network.norm.weight.uniform_(-2, 2)
    before = Scales(weight=np.linspace(1, 2, 8).astype(np.float32))
    after = fold_norms(network, {"second": before})
    assert {*after} == {"second", "norm"}
    folded = nn.utils.fusion.fuse_conv_bn_eval(network.second, network.norm).weight.detach()
    plain = network.second.weight.detach()
    sign = network.norm.weight.sign().view(-1, 1, 1, 1)

    def integers(weight, amax):
        return (weight / torch.from_numpy(amax).view(-1, 1, 1, 1) * 127).round()

    expected = integers(plain, before.weight) * sign
    assert (integers(folded, after["norm"].weight) - expected).abs().max() <= 1
    assert (integers(folded, after["norm"].weight) != expected).float().mean() < 0.01
    assert after["second"] == after["norm"]


def take_float(network):
    images = torch.randn(2, 3, 12, 12)
    return take_scales(network, lambda: network(images))[0]


class TestNetworks:
    @pytest.mark.parametrize("fused", [False, True])
    def test_it_becomes_a_float_network_with_its_scales(self, fused):
        network = prepared(fused)
        images = torch.randn(4, 3, 12, 12)
        with torch.no_grad():
            expected = copy.deepcopy(network)(images)
        ranges = observed(network.quant.activation_post_process)
        assert is_fake_quantised(network)
        plain, scales = take_scales(network, lambda: network(images))
        assert not is_fake_quantised(plain)
        assert {type(module).__module__.split(".")[1] for module in plain.modules() if type(module) is not Net} <= {
            "nn",
            "ao",
        }
        found = plain(images)
        difference = (found - expected).abs().max()
        assert 0 < difference < 0.1 * expected.abs().max(), "quantised answers differ, but little"
        first = "conv.0" if fused else "conv"
        assert scales[first].input == pytest.approx(ranges)
        weight = plain.get_submodule(first).weight.detach()
        if not fused:
            weight = nn.utils.fusion.fuse_conv_bn_eval(plain.conv, plain.bn).weight.detach()
        amax = weight.abs().amax((1, 2, 3)).numpy()
        np.testing.assert_allclose(scales[first].weight, amax, rtol=0.15 if fused else 0.03)
        assert modules_of(plain, scales) == scales

    def test_observing_ends_before_the_network_is_run(self):
        network = prepared()
        ranges = observed(network.quant.activation_post_process)
        images = 1000 * torch.randn(2, 3, 12, 12)
        _, scales = take_scales(network, lambda: network(images))
        assert scales["quant"].output == pytest.approx(ranges)

    def test_a_quantiser_of_its_own_is_the_range_of_whoever_takes_its_tensor(self):
        class Explicit(nn.Module):
            def __init__(self):
                super().__init__()
                self.fake = ao.default_fake_quant()
                self.fc = nn.Linear(12, 2)

            def forward(self, x):
                return self.fc(self.fake(x).flatten(1))

        network = Explicit()
        network(torch.linspace(-1, 3, 24).view(2, 3, 4))
        plain, scales = take_scales(network.eval(), lambda: network(torch.zeros(2, 3, 4)))
        assert scales["fc"].input == pytest.approx((-1, 3))
        assert isinstance(plain.fake, nn.Identity)

    def test_other_widths_than_8_bits_are_refused(self):
        four = ao.FakeQuantize.with_args(
            quant_min=-8, quant_max=7, dtype=torch.qint8, qscheme=torch.per_tensor_symmetric
        )
        qconfig = ao.QConfig(activation=nn.Identity, weight=four)
        network = prepared(qconfig=qconfig)
        with pytest.raises(CheckpointError, match="quantises to 16 steps"):
            take_scales(network, lambda: network(torch.randn(2, 3, 12, 12)))


SOURCE = """
import torch
from torch import nn
from torch.ao import quantization as ao

def build():
    network = nn.Sequential(ao.QuantStub(), nn.Linear(4, 3), nn.ReLU(), ao.DeQuantStub()).train()
    if {quantised}:
        network.qconfig = ao.get_default_qat_qconfig("x86")
        ao.prepare_qat(network, inplace=True)
        network(torch.linspace(-2, 2, 32).view(8, 4))
    return network, (torch.randn(2, 4),)
"""


class TestModuleFamily:
    @pytest.fixture
    def load(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)

        def load(quantised, name):
            (tmp_path / f"{name}.py").write_text(SOURCE.format(quantised=quantised))
            return ModuleFamily().load(f"{tmp_path / name}.py:build", LoadOptions())

        return load

    def test_a_users_network_is_taken_with_its_scales(self, load):
        component = load(True, "quantised_net").component("model")
        assert component.scales["1"].input == pytest.approx((-2, 2))
        assert component.scales["1"].weight.shape == (3,)
        assert not is_fake_quantised(component.exported)
        plain = load(False, "plain_net").component("model")
        assert plain.scales == {}
        x = torch.randn(3, 4)
        torch.testing.assert_close(component.reference(x), plain.reference(x))


class TestScales:
    def test_plain_data_and_back(self):
        import json

        scales = {"a": Scales((-1, 2), None, np.array([1, 2], np.float32)), "b": Scales(output=(0, 1))}
        scales["c"] = Scales(weight=np.array(3, np.float32))
        assert from_plain(json.loads(json.dumps(to_plain(scales)))) == scales

    def test_equality(self):
        one = Scales(weight=np.ones(2, np.float32))
        assert one == Scales(weight=np.ones(2, np.float32))
        assert one != Scales(weight=np.zeros(2, np.float32))
        assert one != Scales()
        assert Scales((0, 1)) != Scales((0, 2))
        assert one != 1
