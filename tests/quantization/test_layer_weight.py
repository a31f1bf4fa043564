from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mqb_monai.quantization import QuantSpec
from mqb_monai.quantization.layer_weight import input_channels, quantize_weight, scale_input_channels

LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 7)),
    "conv2d_groups": (nn.Conv2d(4, 6, 3, groups=2, stride=2), (2, 4, 7, 6)),
    "conv3d": (nn.Conv3d(4, 6, (1, 2, 3)), (2, 4, 4, 3, 5)),
    "conv3d_groups": (nn.Conv3d(4, 6, 2, groups=2), (2, 4, 4, 3, 5)),
    "conv3d_depthwise": (nn.Conv3d(4, 8, 2, groups=4), (2, 4, 4, 3, 5)),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 2, stride=2), (2, 4, 5, 4)),
    "conv_transpose3d_groups": (nn.ConvTranspose3d(4, 6, 3, stride=2, groups=2), (2, 4, 3, 4, 5)),
    "linear": (nn.Linear(4, 6), (2, 3, 4)),
}
FACTOR = torch.tensor([0.3, 7.0, 1.0, -2.5], dtype=torch.float64)


@pytest.mark.parametrize("name", list(LAYERS))
def test_scale_input_channels_undoes_a_scaled_input(name):
    """Oracle: torch's own layer, in float64, on the input as it is."""
    layer, shape = copy.deepcopy(LAYERS[name][0]).double(), LAYERS[name][1]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along = FACTOR if isinstance(layer, nn.Linear) else FACTOR.view(-1, *[1] * (len(shape) - 2))
    with torch.no_grad():
        expected = layer(x)
        weight = scale_input_channels(layer.weight, layer, 1 / FACTOR)
        assert weight.shape == layer.weight.shape
        layer.weight.copy_(weight)
        torch.testing.assert_close(layer(x * along), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", list(LAYERS))
def test_quantize_weight_divides_by_the_prescale(name):
    """Oracle: the weight divided by hand, then quantized."""
    layer, spec = LAYERS[name][0], QuantSpec(4, "per_channel")
    prescale = FACTOR.abs().float()
    divided = copy.deepcopy(layer)
    divided.weight.data = scale_input_channels(layer.weight.data, layer, 1 / prescale)
    found, expected = quantize_weight(layer, spec, prescale), quantize_weight(divided, spec)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_input_channels_of_every_kind():
    assert {input_channels(layer) for layer, _ in LAYERS.values()} == {4}
