from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mqb_monai.ptq.equalization import equalizing_factor
from mqb_monai.quantization.layer_weight import input_channels, scale_input_channels

positive = st.floats(1e-3, 1e3)


def test_equalizing_factor_by_hand():
    reach, weights = torch.tensor([1.0, 100.0]), torch.tensor([1.0, 1.0])
    # (1 / 1^a, 1 / 100^a) over its geometric mean 100^(-a / 2)
    torch.testing.assert_close(equalizing_factor(reach, weights, 0.5), torch.tensor([10**0.5, 10**-0.5]))
    torch.testing.assert_close(equalizing_factor(reach, weights, 1.0), torch.tensor([10.0, 0.1]))
    # a = 0.5: sqrt(max|W| / max|x|), as SmoothQuant's equation 4 has it inverted: (sqrt 4, 1) over sqrt 2
    torch.testing.assert_close(
        equalizing_factor(torch.ones(2), torch.tensor([4.0, 1.0]), 0.5), torch.tensor([2**0.5, 2**-0.5])
    )


def test_equalizing_factor_is_one_where_there_is_nothing_to_equalize():
    reach = torch.tensor([1.0, 100.0])
    assert equalizing_factor(reach, reach, 0.0).tolist() == [1, 1]
    assert equalizing_factor(reach[:1], reach[:1], 0.5).tolist() == [1]
    assert equalizing_factor(torch.zeros(2), reach, 0.5).tolist() == [1, 1]
    dead = equalizing_factor(torch.tensor([1.0, 0.0, 100.0]), torch.ones(3), 0.5)
    torch.testing.assert_close(dead, torch.tensor([10**0.5, 1, 10**-0.5]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(positive, positive), min_size=2, max_size=8), st.floats(0.05, 1))
def test_equalizing_factor_has_geometric_mean_one(channels, strength):
    reach, weights = torch.tensor(channels).T
    factor = equalizing_factor(reach, weights, strength)
    assert factor.double().log().mean().abs() < 1e-5
    if strength == 1:
        torch.testing.assert_close(factor * reach, (factor * reach)[:1].expand(len(reach)), rtol=1e-4, atol=0)


LAYERS = {
    "conv": (nn.Conv3d(4, 6, 3, padding=1), (1, 4, 5, 5, 5)),
    "grouped": (nn.Conv3d(4, 6, 3, padding=1, groups=2), (1, 4, 5, 5, 5)),
    "transposed": (nn.ConvTranspose3d(4, 6, 2, stride=2), (1, 4, 5, 5, 5)),
    "grouped transposed": (nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2), (1, 4, 5, 5, 5)),
    "linear": (nn.Linear(4, 6), (2, 7, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
@settings(deadline=None, max_examples=10)
@given(st.floats(0.05, 1), st.integers(0, 1000))
def test_equalization_leaves_the_float_layer_as_it_is(name, strength, seed):
    """Oracle: the layer itself; ``conv(x, W) = conv(f x, W / f)``."""
    layer, shape = LAYERS[name]
    generator = torch.Generator().manual_seed(seed)
    channels = input_channels(layer)
    factor = equalizing_factor(
        torch.rand(channels, generator=generator) + 0.01, torch.rand(channels, generator=generator) + 0.01, strength
    )
    x = torch.randn(shape, generator=generator)
    along = factor if isinstance(layer, nn.Linear) else factor.view(1, -1, 1, 1, 1)
    weight = scale_input_channels(layer.weight.detach(), layer, 1 / factor)
    with torch.no_grad():
        found = torch.func.functional_call(layer, {"weight": weight, "bias": layer.bias}, (x * along,))
        torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)
