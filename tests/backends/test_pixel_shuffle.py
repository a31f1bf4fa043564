from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends.pixel_shuffle import (
    convolve_and_shuffle,
    pointwise_weight,
    repeated,
    upsampled_sizes,
)
from mqb_monai.quantization.layer_weight import is_block_upsampling

BLOCKS = [
    (nn.ConvTranspose1d(6, 5, 4, 4), (2, 6, 7)),
    (nn.ConvTranspose2d(6, 5, 2, 2, bias=False), (2, 6, 4, 3)),
    (nn.ConvTranspose3d(6, 5, (1, 2, 3), (1, 2, 3)), (2, 6, 4, 3, 5)),
    (nn.ConvTranspose3d(6, 5, 2, 2), (6, 4, 3, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), BLOCKS, ids=["1d", "2d", "anisotropic", "without batch axis"])
def test_convolve_and_shuffle_is_the_transposed_convolution(layer, shape):
    """The oracle is torch's own transposed convolution, in float64."""
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    assert is_block_upsampling(layer)
    with torch.no_grad():
        weight, bias = pointwise_weight(layer.weight), repeated(layer.bias, layer)
        torch.testing.assert_close(convolve_and_shuffle(x, weight, bias, layer.kernel_size), layer(x))
        assert upsampled_sizes(layer, x) == list(layer(x).shape[-len(layer.kernel_size) :])


@pytest.mark.parametrize(
    "changed",
    [
        {"stride": 1},
        {"padding": 1},
        {"output_padding": 1, "stride": 2},
        {"dilation": 2},
        {"groups": 2},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_is_block_upsampling_is_false_where_outputs_overlap_or_are_cut(changed):
    assert not is_block_upsampling(nn.ConvTranspose3d(4, 4, **{"kernel_size": 2, "stride": 2} | changed))


def test_repeated_leaves_one_number_for_all_and_none():
    layer = nn.ConvTranspose3d(2, 3, 2, 2)
    assert repeated(None, layer) is None
    assert repeated(torch.tensor(0.5), layer) == 0.5
    assert repeated(torch.tensor([1, 2, 3]), layer).tolist() == [1] * 8 + [2] * 8 + [3] * 8  # by hand
