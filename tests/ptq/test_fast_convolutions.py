from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mqb_monai.ptq.fast_convolutions import fast_convolutions
from mqb_monai.quantization import quantize

LAYERS = {
    "5 to 3": (nn.Conv3d(5, 3, 3, padding=1), 5),
    "one channel": (nn.Conv3d(1, 5, 3, padding=1), 1),
    "dilated": (nn.Conv3d(5, 5, 3, padding=2, dilation=2), 5),
    "strided without bias": (nn.Conv3d(6, 10, 3, stride=2, bias=False), 6),
    "many": (nn.Conv3d(64, 8, 3, padding="same"), 64),
}


@pytest.mark.parametrize("name", LAYERS)
def test_fast_convolutions_give_torch_s_own_results(name):
    layer, channels = LAYERS[name]
    x = torch.randn(2, channels, 8, 9, 10, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = layer(x)
        with fast_convolutions(layer):
            assert "_conv_forward" in vars(layer)
            found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert "_conv_forward" not in vars(layer)


def test_fast_convolutions_in_2d_and_double():
    layer = nn.Conv2d(5, 3, 3, padding=1)
    x = torch.randn(2, 5, 9, 8)
    with torch.no_grad():
        expected, double = layer(x), copy.deepcopy(layer).double()
        with fast_convolutions(nn.ModuleList([layer, double])):
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
            assert double(x.double()).dtype == torch.float64
            torch.testing.assert_close(layer(x[0]), expected[0], rtol=1e-5, atol=1e-5)  # without a batch axis


def test_fast_convolutions_have_torch_s_own_gradients():
    layer, x = nn.Conv3d(5, 3, 3, padding=1), torch.randn(1, 5, 6, 6, 6)
    gradients = []
    for fast in (False, True):
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        if fast:
            with fast_convolutions(layer):
                layer(leaf).square().sum().backward()
        else:
            layer(leaf).square().sum().backward()
        gradients.append([leaf.grad, layer.weight.grad.clone(), layer.bias.grad.clone()])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_fast_convolutions_of_a_quantized_network_give_the_same(network, scan):
    quantized = quantize(network, "w8a8_engine", [scan])
    with torch.no_grad():
        expected = quantized(scan)
        with fast_convolutions(quantized):
            found = quantized(scan)
    # A last bit tips a rounding here and there: by one step of the next layer's input.
    assert (found - expected).abs().mean() < 1e-3 * expected.abs().mean()


def test_fast_convolutions_leave_other_layers_alone():
    others = nn.ModuleList(
        [
            nn.Conv3d(4, 4, 3, groups=2),
            nn.Conv3d(4, 4, 3, padding=1, padding_mode="reflect"),
            nn.Conv3d(4, 4, 1),
            nn.ConvTranspose3d(4, 4, 2),
        ]
    )
    with fast_convolutions(others):
        assert not any("_conv_forward" in vars(layer) for layer in others)


def test_fast_convolutions_are_undone_after_an_error_and_by_the_outer_block(network, scan, leftovers):
    with pytest.raises(RuntimeError, match="channels"), fast_convolutions(network):
        network(scan.expand(1, 2, -1, -1, -1))
    assert not leftovers(network)
    with fast_convolutions(network):
        with fast_convolutions(network):
            pass
        assert "_conv_forward" in vars(network.first)
    assert not leftovers(network)
