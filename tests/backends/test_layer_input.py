from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends.layer_input import engine_input, input_factor, input_range, narrow_range, prescaled
from mqb_monai.quantization.affine import quantize_affine
from mqb_monai.quantization.scheme import QuantSpec


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 7])
def test_narrow_range_gives_eight_bits_the_integers_of_fewer(bits, symmetric, make_layer):
    """The oracle is the layer's own grid of ``bits`` bits."""
    layer = make_layer(nn.Linear(4, 4), QuantSpec(bits, "per_tensor", symmetric))
    x = torch.linspace(-9, 9, 10001)
    spec, scale, zero_point = layer.spec.input, layer.input_scale, layer.input_zero_point
    eight = QuantSpec(8, "per_tensor", symmetric)
    within = engine_input(layer, x.view(-1, 1), narrow_range(layer)).flatten()
    found = quantize_affine(within, scale, zero_point, eight.qmin, eight.qmax)
    assert torch.equal(found, quantize_affine(x, scale, zero_point, spec.qmin, spec.qmax))


@pytest.mark.parametrize("spec", [QuantSpec(8, "per_tensor"), QuantSpec(4, "per_tensor", terms=2)])
def test_narrow_range_is_none_at_eight_bits_in_effect(spec, make_layer):
    assert narrow_range(make_layer(nn.Linear(4, 4), spec)) is None


def test_input_range_is_that_of_the_grid(make_layer):
    layer = make_layer(nn.Linear(4, 4), QuantSpec(8, "per_tensor", symmetric=False), low=-55.0, high=200.0)
    assert input_range(layer) == (-55.0, 200.0)  # by hand: a scale of 1, zero point 55


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Conv3d(4, 2, 1), (1, 4, 2, 3, 5)), (nn.Conv3d(4, 2, 1), (4, 2, 3, 5)), (nn.Linear(4, 2), (2, 3, 4))],
    ids=["conv", "without batch axis", "linear"],
)
def test_prescaled_multiplies_each_input_channel(layer, shape, make_layer):
    factors = torch.tensor([0.5, 1.0, 2.0, 4.0])
    layer = make_layer(layer, QuantSpec(8, "per_tensor"), prescale=factors)
    axis = shape.index(4)
    result = prescaled(layer, torch.ones(shape)).movedim(axis, -1)
    assert torch.equal(result, factors.expand(result.shape))  # by hand


def test_input_factor_is_none_without_prescale(make_layer):
    layer, x = make_layer(nn.Linear(4, 2), QuantSpec(8, "per_tensor")), torch.ones(2, 4)
    assert input_factor(layer, x) is None
    assert prescaled(layer, x) is x
