"""Convolutional building blocks of MedFormer.

Norms are InstanceNorm3d without parameters and activations are ReLU throughout. Children bear the names that upstream's
state dict has. Source: yhygao/CBIM-Medical-Image-Segmentation at 7c26979, ``model/dim3/conv_layers.py`` and
``medformer_utils.py``; what upstream offers beyond the published configuration (other norms and activations, linear
projections, bottleneck blocks, drop path) is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from monai.networks.layers import same_padding
from torch import Tensor, nn

UNIT_NORM_EPS = 1e-4  # of the norms inside conv units; norms that stand alone have torch's 1e-5


def same_conv(in_channels: int, out_channels: int, kernel_size: Sequence[int] | int, groups: int = 1) -> nn.Conv3d:
    """A convolution without bias that keeps the spatial shape; ``kernel_size`` is odd."""
    padding = same_padding(kernel_size)
    return nn.Conv3d(in_channels, out_channels, kernel_size, padding=padding, groups=groups, bias=False)


def pre_activated_conv(
    in_channels: int, out_channels: int, kernel_size: Sequence[int] | int, groups: int = 1, activated: bool = True
) -> nn.Sequential:
    """Norm, activation, convolution without bias: ``(B, in_channels, H, W, D)`` to ``(B, out_channels, H, W, D)``.

    Args:
        in_channels: of the input, and of its norm.
        out_channels: of the output.
        kernel_size: odd, one number or one per spatial axis.
        groups: of the convolution.
        activated: False leaves the activation out.
    """
    unit = OrderedDict(norm=nn.InstanceNorm3d(in_channels, eps=UNIT_NORM_EPS))
    if activated:
        unit["act"] = nn.ReLU()
    unit["conv"] = same_conv(in_channels, out_channels, kernel_size, groups)
    return nn.Sequential(unit)


def depthwise_separable_conv(in_channels: int, out_channels: int, kernel_size: Sequence[int]) -> nn.Sequential:
    """A convolution of each channel by itself, then 1x1x1 across channels; nothing in between, no biases."""
    depthwise = same_conv(in_channels, in_channels, kernel_size, groups=in_channels)
    return nn.Sequential(
        OrderedDict(depthwise=depthwise, pointwise=same_conv(in_channels, out_channels, kernel_size=1))
    )


def basic_blocks(in_channels: int, out_channels: int, kernel_size: Sequence[int], depth: int) -> nn.Sequential:
    """``depth`` basic blocks in a row, the first of which changes the channels; the identity for 0."""
    widths = [in_channels] + [out_channels] * depth
    return nn.Sequential(*(BasicBlock(width, out_channels, kernel_size) for width in widths[:-1]))


class BasicBlock(nn.Module):
    """Two pre-activated convolutions with a shortcut, which is a third one where the channels change.

    Shapes: ``(B, in_channels, H, W, D)`` to ``(B, out_channels, H, W, D)``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = pre_activated_conv(in_channels, out_channels, kernel_size)
        self.conv2 = pre_activated_conv(out_channels, out_channels, kernel_size)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else pre_activated_conv(in_channels, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + self.shortcut(x)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in 0..1 computed from all channels' means; the bottleneck is a quarter as wide.

    MONAI's ``ChannelSELayer`` computes the same with Linear layers under other names.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool3d(1)
        self.excitation = nn.Sequential(
            nn.Conv3d(channels, channels // 4, kernel_size=1),
            nn.ReLU(),
            nn.Conv3d(channels // 4, channels, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excitation(self.squeeze(x))


class InvertedBottleneck(nn.Module):
    """MBConv: expand, depthwise convolution, squeeze-and-excite, project back; with identity shortcut.

    All three convolutions are pre-activated; the last one has its norm but no activation. The shape stays.
    """

    def __init__(self, channels: int, kernel_size: Sequence[int], expansion: int) -> None:
        super().__init__()
        expanded = expansion * channels
        self.expand_proj = pre_activated_conv(channels, expanded, kernel_size=1)
        self.depthwise = pre_activated_conv(expanded, expanded, kernel_size, groups=expanded)
        self.se = SqueezeExcitation(expanded)
        self.pointwise = pre_activated_conv(expanded, channels, kernel_size=1, activated=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pointwise(self.se(self.depthwise(self.expand_proj(x))))


class PatchMerging(nn.Module):
    """Downsampling: the voxels of each patch side by side as channels, norm, depthwise-separable convolution.

    Shapes: ``(B, in_channels, H, W, D)`` to ``(B, out_channels, H/strides[0], W/strides[1], D/strides[2])``; each axis
    must be a multiple of its stride. A patch's voxels come in C order.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.strides = tuple(strides)
        merged = prod(self.strides) * in_channels
        self.norm = nn.InstanceNorm3d(merged)
        self.reduction = depthwise_separable_conv(merged, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        h, w, d = self.strides
        merged = torch.cat([x[:, :, i::h, j::w, k::d] for i, j, k in product(range(h), range(w), range(d))], dim=1)
        return self.reduction(self.norm(merged))
