from __future__ import annotations

import re
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.backends.tensorrt.export import export_program
from mqb_monai.backends.tensorrt.layers import emit_operators, place_layers, reason_float
from mqb_monai.errors import InputError
from mqb_monai.quantization import QuantSpec, quantize, quantized_layers


def quantized(layer: nn.Module, x: torch.Tensor, scheme: str = "w8a8_engine") -> nn.Module:
    return quantize(layer.eval(), scheme, [x])


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose3d(6, 5, 2, 2), (2, 6, 4, 3, 5)),
        (nn.ConvTranspose3d(6, 5, (1, 2, 3), (1, 2, 3), bias=False), (1, 6, 4, 3, 5)),
        (nn.ConvTranspose2d(6, 5, 2, 2), (2, 6, 4, 3)),
    ],
    ids=["3d", "anisotropic", "2d"],
)
@pytest.mark.parametrize("scheme", ["w8a8_engine", "w8a8_per_tensor"])
def test_block_upsampling_is_a_pointwise_convolution_and_a_shuffle(layer, shape, scheme):
    """Oracle: torch's own transposed convolution on the same fake-quantized tensors, in float64."""
    x = noise(*shape)
    simulated = quantized(layer, x, scheme)
    expected_x, expected_weight = simulated.fake_quantize_input(x).double(), simulated.weight.double()
    bias = None if layer.bias is None else layer.bias.double()
    expected = getattr(F, f"conv_transpose{x.dim() - 2}d")(expected_x, expected_weight, bias, layer.stride)
    emitted, _ = place_layers(simulated)
    emit_operators(emitted)
    emitted.pointwise_weight = emitted.pointwise_weight.double()
    emitted.pointwise_bias = None if bias is None else emitted.pointwise_bias.double()
    result = emitted(x.double())
    assert result.shape == expected.shape
    # The operator rounds in float32; what is left is the order of the sums.
    assert torch.allclose(result, expected, rtol=0, atol=1e-6)


def test_block_upsampling_keeps_the_integers_of_the_weight():
    """Oracle: the layer's own integers, brought into the layout ``(C_out k k k, C_in)`` by hand."""
    x = noise(1, 6, 4, 3, 5)
    simulated = quantized(nn.ConvTranspose3d(6, 5, 2, 2), x)
    emitted, _ = place_layers(simulated)
    emit_operators(emitted)
    integers = (emitted.pointwise_weight / (emitted.weight_amax / 127)).round()[..., 0, 0, 0]
    channels = product(range(5), (0, 1), (0, 1), (0, 1))
    by_hand = torch.stack([simulated.integer_weight[:, o, i, j, k].float() for o, i, j, k in channels])
    assert torch.equal(integers, by_hand)
    assert emitted.weight_amax.shape == (40, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (nn.Conv1d(4, 4, 3), (1, 4, 9), "1D convolution"),
        (nn.ConvTranspose3d(4, 4, 3, 2), (1, 4, 4, 4, 4), "kernel equals its stride"),
        (nn.ConvTranspose3d(4, 4, 2, 2, padding=1), (1, 4, 4, 4, 4), "without padding"),
        (nn.ConvTranspose3d(4, 4, 2, 2, groups=2), (1, 4, 4, 4, 4), "and groups"),
        (nn.Conv3d(8, 8, 3, groups=8), (1, 8, 4, 4, 4), "groups have 1 channels in, .* multiple of 4"),
        (nn.Conv3d(8, 4, 3, groups=2), (1, 8, 4, 4, 4), "groups have 2 channels out"),
    ],
)
def test_place_layers_names_what_tensorrt_cannot_take_and_leaves_it_float(layer, shape, reason):
    """Oracle: the float layer with the rounded weight."""
    network = quantized(nn.Sequential(layer), noise(*shape))
    placed, left_float = place_layers(network)
    assert list(left_float) == ["0"]
    assert re.search(reason, left_float["0"])
    assert quantized_layers(network) and not quantized_layers(placed)
    layer.weight.data = network[0].weight.data
    with torch.no_grad():
        assert torch.equal(placed(noise(*shape)), layer(noise(*shape)))


def test_place_layers_takes_the_prescale_out_of_a_float_layer(make_layer):
    """Oracle: the simulation without rounding of its input."""
    prescale = torch.tensor([0.5, 1.0, 2.0, 4.0])
    layer = make_layer(nn.Conv3d(4, 8, 3, groups=2), QuantSpec(8, "per_tensor"), prescale=prescale)
    x = noise(1, 4, 4, 4, 4)
    placed, left_float = place_layers(nn.Sequential(layer))
    assert list(left_float) == ["0"]
    with torch.no_grad():
        expected = F.conv3d(x * prescale.view(-1, 1, 1, 1), layer.weight, layer.bias, groups=2)
        torch.testing.assert_close(placed(x), expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Conv3d(4, 8, 3), (1, 4, 5, 5, 5)),
        (lambda: nn.Linear(4, 8), (3, 4)),
        (lambda: nn.ConvTranspose3d(4, 8, 2, 2), (1, 4, 5, 5, 5)),
    ],
    ids=["conv", "linear", "transposed"],
)
def test_a_prescale_and_the_range_of_fewer_bits_come_before_the_operator(layer, shape, bits, make_layer):
    """Oracle: the simulation."""
    prescale = torch.tensor([0.5, 1.0, 2.0, 4.0])
    network = nn.Sequential(make_layer(layer(), QuantSpec(bits, "per_tensor"), weight_bits=bits, prescale=prescale))
    x = 4 * noise(*shape)
    placed, _ = place_layers(network)
    emit_operators(placed)
    with torch.no_grad():
        torch.testing.assert_close(placed(x), network(x), rtol=0, atol=1e-5)
        program = export_program(network, (x,), "fp32", "cpu").program
        torch.testing.assert_close(program.module()(x), network(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv3d(8, 8, 3, groups=2), (1, 8, 4, 4, 4)), (nn.Conv2d(3, 5, 3), (1, 3, 4, 4)), (nn.Linear(3, 5), (2, 3))],
)
def test_reason_float_of_what_tensorrt_takes(layer, shape):
    assert reason_float(quantized(layer, noise(*shape))) is None


def test_emit_operators_gives_every_weight_its_amax_on_axis_0(qnet):
    placed, left_float = place_layers(qnet)
    emit_operators(placed)
    assert left_float == {}
    assert placed.down.weight_amax.shape == (16, 1, 1, 1, 1)
    assert placed.token.weight_amax.shape == (8, 1)
    assert placed.up is placed.alias and placed.up.input_amax.shape == ()
    assert all(layer.input_amax.dtype == torch.float32 for layer in quantized_layers(placed).values())


def test_a_layer_that_emits_computes_what_the_simulation_computes(qnet, x):
    placed, _ = place_layers(qnet)
    with torch.no_grad():
        expected = placed(x)
        emit_operators(placed)
        assert torch.allclose(placed(x), expected, rtol=0, atol=1e-5)


def test_a_transposed_convolution_called_with_another_output_size_is_refused_by_name():
    class UpToSize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose3d(4, 2, 2, 2)

        def forward(self, x):
            return self.up(x, output_size=[2 * size + 1 for size in x.shape[2:]])

    x = torch.randn(1, 4, 3, 3, 3)
    qnet = quantize(UpToSize().eval(), "w8a8_engine", [x])
    with pytest.raises(InputError, match=r"layer 'up' is .*output_size \(7, 7, 7\).*gives \(6, 6, 6\).*exclude='up'"):
        export_program(qnet, (x,), "fp32")
