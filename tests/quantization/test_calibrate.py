from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization import Calibrator, count_coverage, quantize


def test_calibrate_by_hand(calibrate):
    network = nn.Sequential(nn.Conv3d(2, 3, 1), nn.Conv3d(3, 1, 3))
    network[0].weight.data.fill_(1.0)
    network[0].bias.data.fill_(-1.0)
    batch = torch.zeros(1, 2, 3, 3, 3)
    batch[0, 0, 0, 0, 0], batch[0, 1, 1, 1, 1] = 7.0, -14.0
    calibration = calibrate(network, "w4a4_per_channel", [batch, batch / 2])
    assert calibration.qparams["0"][0].tolist() == [1.0, 2.0]  # the greatest magnitudes 7 and 14 over 7
    torch.testing.assert_close(calibration.qparams["1"][0], torch.full((3,), 15 / 7))  # -14 + 0 - 1


def test_calibrate_dynamic_layers_count_calls_only(calibrate, network, x):
    calibration = calibrate(network, "w8a8_adaptive", [x, x])
    assert set(calibration.qparams) == {"conv", "up"}
    (witness,) = calibration.witnesses  # the first call: the second ran no other layer
    assert witness.calls == dict.fromkeys(("conv", "up", "pointwise", "linear"), 1)
    assert calibration.reasons == {"unused": "no calibration data reached it"}


def test_calibrate_leaves_the_network_as_it_was(calibrate, network, x):
    network.train()
    network.norm.eval()
    modes = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    calibrate(network, "w8a8_per_tensor", [x])
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_calibrate_cleans_up_after_an_error(calibrate, network, x):
    network.train()
    with pytest.raises(RuntimeError, match="channels"):
        calibrate(network, "w8a8_per_tensor", [x[:, :1]])
    assert network.training
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("batches", [[], [torch.zeros(0, 3, 4, 4, 4)]])
def test_calibrate_without_data(calibrate, network, batches):
    with pytest.raises(InputError, match="no calibration data"):
        calibrate(network, "w8a8_per_tensor", batches)


def test_calibrate_refuses_what_is_no_list_of_tensors(network, x):
    with pytest.raises(InputError, match="put it in a list"):
        quantize(network, "w8a8_per_tensor", x)
    with pytest.raises(InputError, match=r"must yield tensors .*got dict"):
        quantize(network, "w8a8_per_tensor", [{"image": x}])


def test_calibrate_names_the_layer_that_nan_reaches(calibrate, network, x):
    network.norm.running_var.fill_(float("nan"))
    with pytest.raises(InputError, match="layer up: NaN or Inf in the data that reaches it in calibration"):
        calibrate(network, "w8a8_per_tensor", [x])


def test_calibrate_names_the_layer_whose_weight_is_nan(calibrate, network, x):
    network.up.weight.data[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="layer up: NaN or Inf in its weight"):
        calibrate(network, "w8a8_per_tensor", [x])
    assert calibrate(network, "w8a8_per_tensor", [x * 0], include="conv").specs.keys() == {"conv"}


def test_calibrator_gives_what_quantize_gives(network, x):
    with Calibrator(network, "w8a8_per_channel", exclude=["unused"]) as calibrator, torch.no_grad():
        network(x)
        qnet = calibrator.finish()
    assert not any(module._forward_pre_hooks for module in network.modules())
    expected = quantize(network, "w8a8_per_channel", [x], exclude=["unused"])
    assert torch.equal(qnet(x), expected(x))


def test_calibrator_without_data_leaves_the_network_as_it_was(network):
    calibrator = Calibrator(network, "w8a8_per_channel")
    calibrator.stop()  # before it started: nothing to do
    calibrator.start()
    with pytest.raises(InputError, match="no calibration data"):
        calibrator.finish()
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_calibrate_counts_the_first_call_that_computes(calibrate, network, x):
    calibration = calibrate(network, "w8a8_per_channel", [x[:0], x[:1], x, x])
    once = count_coverage(network, x[:1])
    assert {product.module: count for product, count in calibration.products.items() if count} == once.layers


def test_calibrator_forgets_a_call_that_raised(network, x):
    with Calibrator(network, "w8a8_per_channel", exclude="unused") as calibrator, torch.no_grad():
        with pytest.raises(RuntimeError, match="channels"):
            network(x[:, :1])
        network(x)
        calibrator.finish()
    assert sum(calibrator.calibration.products.values()) == count_coverage(network, x).total
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
