from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.network_check import LIMIT, measure_network, perturbed
from mqb_monai.backends.openvino import layers
from mqb_monai.quantization import quantize


def test_an_engine_that_is_the_simulation(qnet, x, caplog):
    check = measure_network(qnet.train(), x, lambda x: qnet.eval()(x).detach())
    with torch.no_grad():
        assert check["output"] == pytest.approx(qnet(x).pow(2).mean().sqrt().item())
    assert check["difference"] == 0
    assert 0 < check["sensitivity"] < check["output"]
    assert caplog.text == ""


def test_modes_stay(qnet, x):
    qnet.train().up.eval()
    measure_network(qnet, x, lambda x: x)
    assert qnet.training and qnet.first.training and not qnet.up.training


@pytest.mark.parametrize(("factor", "warned"), [(0.9, False), (1.1, True), (float("nan"), True)])
def test_a_difference_is_said_beyond_the_limit(qnet, x, caplog, factor, warned):
    sensitivity = measure_network(qnet, x, qnet)["sensitivity"]
    caplog.clear()
    check = measure_network(qnet, x, lambda x: qnet(x).detach() + factor * LIMIT * sensitivity)
    assert check["difference"] == pytest.approx(factor * LIMIT * sensitivity, rel=1e-4, nan_ok=True)
    assert ("differs from the simulation's" in caplog.text) == warned


def test_a_negligible_difference_is_not_said_where_noise_tips_no_rounding(caplog, engine_scheme):
    # By hand: an input scale of 1, all values on the grid, the output 136.
    layer = nn.Linear(4, 1, bias=False)
    nn.init.ones_(layer.weight)
    x = torch.tensor([[127.0, 2.0, 3.0, 4.0]])
    check = measure_network(quantize(layer, engine_scheme, [x]), x, lambda x: torch.full((1, 1), 136.1))
    assert check["sensitivity"] < 1e-3 * 136
    assert (check["difference"], check["output"]) == (pytest.approx(0.1, abs=1e-4), pytest.approx(136))
    assert caplog.text == ""


def test_perturbed_adds_the_same_noise_each_time_and_leaves_the_network():
    layer = nn.Linear(100, 100)
    before = layer.weight.detach().clone()
    one, other = (perturbed(layer, 1e-3).weight for _ in range(2))
    assert torch.equal(layer.weight, before) and torch.equal(one, other)
    assert (one / before - 1).std().item() == pytest.approx(1e-3, rel=0.05)


def test_nothing_to_compare(network, qnet, x):
    assert measure_network(network, x, network) == {}
    assert measure_network(qnet, torch.ones_like(x), qnet) == {}


def test_a_norm_on_integers_is_said_though_every_layer_agrees(tmp_path, monkeypatch, caplog, engine_scheme):
    """What OpenVINO makes of a layer without bias: the norm's epsilon is added to the variance of integers."""
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    x = 1e-2 * torch.randn(1, 4, 10, 10, 10)
    qnet = quantize(nn.Sequential(nn.Conv3d(4, 8, 1, bias=False), nn.InstanceNorm3d(8)), engine_scheme, [x])
    compile_network(qnet, "openvino", x, tmp_path / "right", threads=1)
    assert "differs from the simulation's" not in caplog.text
    monkeypatch.setattr(layers, "_biases_in_graph", nullcontext)
    record = compile_network(qnet, "openvino", x, tmp_path / "wrong", threads=1).record
    assert record.layer_check["worst_share"] == 1
    assert "although every layer by itself agrees" in caplog.text
