from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.ptq.layer_matrix import grid_of, input_rows, matrix_weight, row_parameter, weight_matrix
from mqb_monai.quantization.layer_weight import TRANSPOSED, merge_groups, output_axis, split_groups

LAYERS = {
    "plain": (nn.Conv3d(3, 4, 3, padding=1), (2, 3, 5, 6, 4)),
    "uneven": (nn.Conv3d(3, 4, (1, 3, 2), stride=(1, 2, 1), padding=(0, 1, 1)), (1, 3, 5, 6, 4)),
    "grouped": (nn.Conv3d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 5, 5)),
    "depthwise": (nn.Conv3d(4, 4, 3, padding=1, groups=4), (1, 4, 5, 5, 5)),
    "dilated": (nn.Conv3d(2, 3, 3, padding=2, dilation=2), (1, 2, 6, 6, 6)),
    "strided": (nn.Conv3d(2, 3, 3, stride=2, padding=1), (1, 2, 7, 6, 6)),
    "reflect": (nn.Conv3d(2, 3, 3, padding=1, padding_mode="reflect"), (1, 2, 5, 5, 5)),
    "same": (nn.Conv3d(2, 3, (3, 4, 3), padding="same"), (1, 2, 5, 5, 5)),
    "pointwise": (nn.Conv3d(3, 4, 1), (2, 3, 4, 4, 4)),
    "2d": (nn.Conv2d(2, 3, 3, padding=1), (2, 2, 6, 5)),
    "1d": (nn.Conv1d(2, 3, 3), (2, 2, 9)),
    "up": (nn.ConvTranspose3d(4, 6, 2, stride=2), (2, 4, 3, 4, 3)),
    "grouped up": (nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2), (2, 4, 3, 4, 3)),
    "2d up": (nn.ConvTranspose2d(4, 6, (2, 3), stride=(2, 3)), (2, 4, 3, 4)),
    "linear": (nn.Linear(5, 3), (2, 7, 5)),
}
UNFOLDED = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")


@pytest.mark.parametrize("name", LAYERS)
def test_weight_matrix_round_trip(name):
    layer, _ = LAYERS[name]
    matrix = weight_matrix(layer.weight, layer)
    assert matrix.dim() == 3 and len(matrix) == getattr(layer, "groups", 1)
    assert torch.equal(matrix_weight(matrix, layer), layer.weight)


def as_output(products: torch.Tensor, layer: nn.Module, grid: tuple[int, ...]) -> torch.Tensor:
    """``(G, N, R)`` as the layer's output: channels in order, taps of a transposed kernel set side by side."""
    if isinstance(layer, nn.Linear):
        return products[0].view(*grid, -1)
    batch, *space = grid
    if not isinstance(layer, TRANSPOSED):
        return products.movedim(1, 2).flatten(0, 1).view(-1, batch, *space).movedim(0, 1)
    kernel, axes = layer.kernel_size, len(space)
    blocks = products.movedim(1, 2).reshape(layer.out_channels, *kernel, batch, *space)
    order = [axes + 1, 0, *(i for axis in range(axes) for i in (axes + 2 + axis, 1 + axis))]
    sizes = [size * step for size, step in zip(space, kernel, strict=True)]
    return blocks.permute(order).reshape(batch, layer.out_channels, *sizes)


@UNFOLDED
@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_matrix_is_torch_s_own_layer(name):
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    grid = grid_of(x, layer)
    positions = torch.arange(torch.Size(grid).numel())
    with torch.no_grad():
        products = input_rows(x, layer, positions) @ weight_matrix(layer.weight, layer).transpose(1, 2)
        bias = layer.bias if isinstance(layer, nn.Linear) else layer.bias.view(-1, *[1] * (x.dim() - 2))
        torch.testing.assert_close(as_output(products, layer, grid) + bias, layer(x), rtol=1e-5, atol=1e-5)


def test_input_rows_are_those_of_the_positions():
    layer, shape = LAYERS["strided"]
    x = torch.randn(shape)
    every = input_rows(x, layer, torch.arange(torch.Size(grid_of(x, layer)).numel()))
    some = torch.tensor([5, 0, 5, 17])
    assert torch.equal(input_rows(x, layer, some), every[:, some])


@pytest.mark.parametrize("name", LAYERS)
def test_row_parameter_stands_beside_its_output_channel(name):
    """Oracle: the weight itself, multiplied along its output channels."""
    layer, _ = LAYERS[name]
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    scale = torch.arange(1.0, channels + 1)
    merged = merge_groups(layer.weight.detach(), layer)
    along = scale.view([-1 if axis == output_axis(layer) else 1 for axis in range(merged.dim())])
    expected = weight_matrix(split_groups(merged * along, layer), layer)
    assert torch.equal(weight_matrix(layer.weight.detach(), layer) * row_parameter(scale, layer), expected)
    assert torch.equal(row_parameter(torch.tensor(2.0), layer).unique(), torch.tensor([2.0]))
