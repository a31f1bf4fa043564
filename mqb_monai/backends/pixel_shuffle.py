"""A transposed convolution whose kernel is its stride, as a 1x1x1 convolution and a pixel shuffle: the same sums.

No output position gets more than one input position, so each of the kernel's positions is a channel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def pointwise_weight(weight: torch.Tensor) -> torch.Tensor:
    """The weight ``(C_in, C_out, k, k, k)`` as that of the convolution, ``(C_out k k k, C_in, 1, 1, 1)``: its output
    channels on axis 0.
    """
    by_output = weight.movedim(0, -1).flatten(0, -2)
    return by_output[(...,) + (None,) * (weight.dim() - 2)].contiguous()


def repeated(per_channel: torch.Tensor | None, layer: nn.Module) -> torch.Tensor | None:
    """What the transposed convolution has per output channel, ``(C_out,)``, per channel of the convolution,
    ``(C_out k k k,)``; one number for all, and None, as they are.
    """
    if per_channel is None or per_channel.dim() == 0:
        return per_channel
    return per_channel.repeat_interleave(layer.weight[0, 0].numel())


def upsampled_sizes(layer: nn.Module, x: torch.Tensor) -> list[int]:
    """The spatial sizes of the layer's output for its input ``x``."""
    spatial = x.shape[-len(layer.kernel_size) :]
    return [size * kernel for size, kernel in zip(spatial, layer.kernel_size, strict=True)]


def convolve_and_shuffle(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kernel_size: Sequence[int]
) -> torch.Tensor:
    """``(B, C_in, H, W, D) -> (B, C_out, H k, W k, D k)``; 8 axes between the two, TensorRT's most.

    Args:
        weight, bias: of the convolution: :func:`pointwise_weight`, :func:`repeated`.
        kernel_size: of the transposed convolution.
    """
    axes = len(kernel_size)
    y = _CONVOLUTIONS[axes](x, weight, bias)
    batch, spatial = x.shape[: -axes - 1], x.shape[-axes:]
    y = y.reshape(*batch, -1, *kernel_size, *spatial)
    first = len(batch) + 1
    order = [axis for i in range(first, first + axes) for axis in (i + axes, i)]
    sizes = [size * kernel for size, kernel in zip(spatial, kernel_size, strict=True)]
    return y.permute(*range(first), *order).reshape(*batch, -1, *sizes)
