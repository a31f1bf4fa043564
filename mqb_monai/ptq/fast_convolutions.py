"""Faster convolutions on CPUs, for the many forwards and steps of a recipe; the results are the same to rounding.

oneDNN computes in blocks of eight channels. A convolution whose number of channels is no multiple of eight takes a
reference kernel: with 5 channels at 64^3 it needs four to ten times the time of one with 8, dilated ones in the usual
layout most of all. Padding the channels with zeros and laying them out channels-last takes the fast kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

_BLOCK = 8
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
# With more channels, or with one alone, padding costs more than the kernel gains.
_PADDED = range(3, 64)


@contextmanager
def fast_convolutions(network: nn.Module) -> Iterator[None]:
    """Within the block the plain convolutions of ``network``, float or quantized, take the fast kernels on a CPU."""
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, _CONVOLUTIONS)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and layer.weight.device.type == "cpu"
        and "_conv_forward" not in vars(layer)
        and max(layer.kernel_size) > 1
    ]
    try:
        for layer in layers:
            layer._conv_forward = _forward(layer)
        yield
    finally:
        for layer in layers:
            del layer._conv_forward


def _forward(layer: nn.Module) -> Callable:
    operator = F.conv3d if isinstance(layer, nn.Conv3d) else F.conv2d
    layout = torch.channels_last_3d if isinstance(layer, nn.Conv3d) else torch.channels_last
    axes = len(layer.kernel_size)

    def convolve(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if x.dim() != axes + 2 or x.dtype != torch.float32:
            return operator(x, weight, bias, layer.stride, layer.padding, layer.dilation)
        outputs, inputs = (_missing(size) for size in weight.shape[:2])
        if inputs or outputs:
            x = F.pad(x, [0, 0] * axes + [0, inputs]) if inputs else x
            weight = F.pad(weight, [0, 0] * axes + [0, inputs, 0, outputs])
            bias = F.pad(bias, [0, outputs]) if bias is not None else None
        x = x.contiguous(memory_format=layout)
        y = operator(x, weight, bias, layer.stride, layer.padding, layer.dilation)
        return y[:, : y.shape[1] - outputs] if outputs else y

    return convolve


def _missing(channels: int) -> int:
    return -channels % _BLOCK if channels in _PADDED else 0
