"""A layer as a matrix product: ``output (N, R) = rows (N, K) @ matrix (R, K)^T``, one for each group.

Legend: ``G`` groups, ``R`` rows of the weight's matrix in a group, ``K`` its columns, ``N`` positions.

- convolution: ``R = C_out / G``, ``K = C_in / G * k * k * k``; a row of the input is what one output position sees
- transposed convolution: ``R = C_out / G * k * k * k``, ``K = C_in / G``; a row is one input position, which every tap
  of the kernel spreads (exact where kernel = stride; where taps overlap, each is taken by itself)
- linear: ``R = C_out``, ``K = C_in``; a row is one token
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.quantization.layer_weight import TRANSPOSED


def weight_matrix(weight: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """``weight`` of ``layer`` (or a tensor in its shape) as ``(G, R, K)``."""
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, TRANSPOSED):
        grouped = weight.reshape(groups, -1, *weight.shape[1:])  # (G, C_in / G, C_out / G, k, k, k)
        return grouped.flatten(2).transpose(1, 2)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def matrix_weight(matrix: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """The inverse of :func:`weight_matrix`."""
    if isinstance(layer, TRANSPOSED):
        return matrix.transpose(1, 2).reshape(layer.weight.shape)
    return matrix.reshape(layer.weight.shape)


def row_parameter(parameter: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """A scale or zero point of the weight, ``()`` or ``(C_out,)``, as ``(G, R, 1)`` beside the matrix."""
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    grouped = parameter.expand(channels).reshape(getattr(layer, "groups", 1), -1)
    if isinstance(layer, TRANSPOSED):
        grouped = grouped.repeat_interleave(math.prod(layer.kernel_size), dim=1)
    return grouped[..., None]


def grid_of(x: torch.Tensor, layer: nn.Module) -> tuple[int, ...]:
    """The shape that a call's rows are counted on: ``(B, H, W, D)``, or a linear layer's leading axes."""
    if isinstance(layer, nn.Linear):
        return tuple(x.shape[:-1])
    return x.shape[0], *_grid(x, layer)


def input_rows(x: torch.Tensor, layer: nn.Module, positions: torch.Tensor) -> torch.Tensor:
    """Rows of the input ``(G, N, K)``.

    Args:
        x: ``(B, C, H, W, D)``, or ``(..., C)`` for a linear layer.
        positions: ``(N,)``, flat on :func:`grid_of`: of the layer's output, of a transposed convolution's input.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])[positions][None]
    groups = layer.groups
    if isinstance(layer, TRANSPOSED):
        rows = x.movedim(1, -1).reshape(-1, x.shape[1])[positions]
        return rows.view(len(rows), groups, -1).transpose(0, 1)
    padded = _padded(x, layer)
    batch, *place = torch.unravel_index(positions, (x.shape[0], *_grid(x, layer)))
    start = [index * stride for index, stride in zip(place, layer.stride, strict=True)]
    taps = torch.meshgrid(
        *(torch.arange(size) * dilation for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)),
        indexing="ij",
    )
    flat = batch[:, None] * math.prod(padded.shape[2:])
    for axis, (index, tap) in enumerate(zip(start, taps, strict=True)):
        flat = flat + (index[:, None] + tap.flatten()) * math.prod(padded.shape[3 + axis :])
    values = padded.transpose(0, 1).flatten(1)[:, flat]  # (C, N, k * k * k)
    return values.view(groups, -1, *values.shape[1:]).transpose(1, 2).flatten(2)


def _grid(x: torch.Tensor, layer: nn.Module) -> tuple[int, ...]:
    """The spatial shape that positions are counted on."""
    if isinstance(layer, TRANSPOSED):
        return tuple(x.shape[2:])
    pads = _padding(layer)
    return tuple(
        (size + sum(pads[axis]) - layer.dilation[axis] * (layer.kernel_size[axis] - 1) - 1) // layer.stride[axis] + 1
        for axis, size in enumerate(x.shape[2:])
    )


def _padding(layer: nn.Module) -> list[tuple[int, int]]:
    flat = layer._reversed_padding_repeated_twice
    return [(flat[2 * i], flat[2 * i + 1]) for i in reversed(range(len(layer.kernel_size)))]


def _padded(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, list(layer._reversed_padding_repeated_twice), mode=mode)
