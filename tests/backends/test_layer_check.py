from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.layer_check import LayerAgreement, _block, _without_ties, measure_layers, require_agreement
from mqb_monai.backends.layer_input import prescaled
from mqb_monai.backends.openvino.conversion import run_layers
from mqb_monai.errors import InputError
from mqb_monai.quantization import QuantSpec, quantize

pytest.importorskip("openvino")


def test_every_layer_once(qnet, x):
    agreements = measure_layers(qnet, x, run_layers)
    assert [agreement.layer for agreement in agreements] == ["first.0", "down", "up", "merge", "token", "head"]
    assert all(agreement.share == 1 for agreement in agreements)
    assert all(agreement.max_steps < 1e-2 for agreement in agreements)
    assert agreements[2].elements == 8 * 12 * 8 * 8  # the first sample
    require_agreement(agreements, "OpenVINO")


def test_a_corrupted_layer_is_named(qnet, x, tmp_path):
    # The engine takes the weight's scale, the simulation the weight itself.
    qnet.down.weight_scale *= 1.5
    with pytest.raises(InputError, match=r"layer 'down' agrees with its simulation within one step on .*1 of 6 layers"):
        compile_network(qnet, "openvino", x, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_an_example_of_zeros_hides_nothing(qnet, x):
    qnet.first[0].weight_scale *= 1.5
    worst = min(measure_layers(qnet, torch.zeros_like(x), run_layers), key=lambda agreement: agreement.share)
    assert worst.layer == "first.0"
    assert worst.share < 0.9


def test_modes_and_hooks_stay(qnet, x):
    qnet.train()
    measure_layers(qnet, x, run_layers)
    assert qnet.training
    assert not any(module._forward_pre_hooks for module in qnet.modules())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv3d(4, 8, 3, dilation=2, padding=2), (2, 4, 40, 36, 9)),
        (nn.Conv3d(8, 8, 3, groups=8), (1, 8, 6, 6, 6)),
        (nn.Conv3d(8, 16, (1, 3, 3), groups=2), (1, 8, 6, 6, 6)),
        (nn.Conv3d(4, 8, (1, 3, 3), stride=(1, 2, 2)), (1, 4, 6, 12, 12)),
        (nn.ConvTranspose3d(8, 4, (1, 2, 2), (1, 2, 2), groups=2), (1, 8, 4, 6, 6)),
        (nn.ConvTranspose3d(8, 4, 3, 2, padding=1, output_padding=1), (1, 8, 4, 6, 6)),
        (nn.Conv3d(4, 8, 3, padding=1, padding_mode="reflect"), (1, 4, 6, 6, 6)),
        (nn.Conv2d(4, 8, 3), (1, 4, 20, 20)),
        (nn.Linear(6, 5), (2, 3, 7, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds_of_layers(layer, shape, engine_scheme):
    torch.manual_seed(0)
    layer.reset_parameters()
    x = torch.randn(shape)
    (agreement,) = measure_layers(quantize(layer, engine_scheme, [x]), x, run_layers)
    assert agreement.share == 1  # a tie may go the other way: one step
    assert agreement.max_steps <= 1.001


def test_a_value_at_a_rounding_tie_is_moved_onto_the_grid(engine_scheme):
    layer = quantize(nn.Linear(4, 1), engine_scheme, [torch.tensor([[127.0, 0.0, 0.0, 0.0]])])  # a scale of 1
    x = torch.tensor([[1.5, 2.4999, -0.5001, 3.49]])
    assert _without_ties(layer, x).tolist() == [[2.0, 2.0, -1.0, pytest.approx(3.49)]]  # by hand


def test_a_value_at_a_tie_is_one_after_the_prescale(make_layer):
    spec = QuantSpec(8, "per_tensor", symmetric=False)
    layer = make_layer(nn.Linear(3, 1), spec, prescale=torch.tensor([1.0, 2.0, 4.0]), low=-55.0, high=200.0)
    x = torch.tensor([[1.5, 1.5, 1.125], [-60.5, 0.25, 0.3]])  # times the prescale: 1.5, 3, 4.5; -60.5, 0.5, 1.2
    # By hand: a scale of 1, zero point 55; half to even, as torch rounds before it adds the zero point.
    assert _without_ties(layer, x).tolist() == [[2.0, 1.5, 1.0], [-55.0, 0.0, pytest.approx(0.3)]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_noise_for_a_constant_input_covers_the_grid_after_the_prescale(symmetric, make_layer):
    spec, prescale = QuantSpec(4, "per_tensor", symmetric), torch.tensor([0.5, 1.0, 8.0])
    layer = make_layer(nn.Conv3d(3, 2, 1), spec, prescale=prescale, low=-1.0, high=4.0)
    seen = prescaled(layer, _block(layer, torch.zeros(1, 3, 10, 10, 10))).transpose(0, 1).flatten(1)
    # By hand: symmetric -8 to 7 sevenths of 4; else 15 steps of a third from -1 to 4.
    low, high = (-32 / 7, 4.0) if symmetric else (-1.0, 4.0)
    assert (seen >= low - 1e-5).all() and (seen <= high + 1e-5).all()
    assert torch.allclose(seen.amin(1), torch.tensor(low), atol=0.1)
    assert torch.allclose(seen.amax(1), torch.tensor(high), atol=0.1)


def test_a_grouped_transposed_convolution_is_reported_as_float(tmp_path, caplog, engine_scheme):
    # OpenVINO has no integer kernel for it, and mixes up its scales where they are in the graph.
    x = torch.randn(1, 8, 4, 6, 6)
    net = nn.Sequential(nn.ConvTranspose3d(8, 4, 2, 2, groups=2), nn.Conv3d(4, 2, 1))
    record = compile_network(quantize(net, engine_scheme, [x]), "openvino", x, tmp_path / "engine").record
    assert record.placement["0"] == "f32"
    assert record.float_layers == ["0"]
    assert "do not run as integers on this CPU: 0" in caplog.text


def test_a_channel_without_weights(engine_scheme):
    layer = nn.Conv3d(2, 3, 3)
    with torch.no_grad():
        layer.weight[1] = 0
    qnet = quantize(layer, engine_scheme, [torch.randn(1, 2, 6, 6, 6)])
    (agreement,) = measure_layers(qnet, torch.randn(1, 2, 6, 6, 6), run_layers)
    assert agreement.share == 1


def test_just_below_the_required_share():
    good = LayerAgreement("a", 1000, 0.999, 3.0)
    require_agreement([good], "OpenVINO")
    with pytest.raises(InputError, match=r"layer 'b' .*99.80%"):
        require_agreement([good, LayerAgreement("b", 1000, 0.998, 3.0)], "OpenVINO")
