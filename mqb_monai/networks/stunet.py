"""STU-Net: one residual U-Net in four sizes, from 15 million to 1.5 billion parameters."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from monai.utils import ensure_tuple_rep
from torch import nn

from mqb_monai.errors import InputError

# Channels of each stage, and residual blocks in each of them.
STUNET_SIZES = {
    "S": {"features": (16, 32, 64, 128, 256, 256), "depths": 1},
    "B": {"features": (32, 64, 128, 256, 512, 512), "depths": 1},
    "L": {"features": (64, 128, 256, 512, 1024, 1024), "depths": 2},
    "H": {"features": (96, 192, 384, 768, 1536, 1536), "depths": 3},
}


class ResidualBlock(nn.Module):
    """conv-norm-act-conv-norm plus a shortcut, then act: ``(B, in_channels, H, W, D)`` to ``(B, out_channels, ...)``.

    Args:
        in_channels, out_channels: channels.
        kernel_size: voxels per axis, odd; padded so that only ``stride`` changes the size.
        stride: voxels per axis.
        project: whether the shortcut is a 1x1x1 convolution of the same stride, or the input itself.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sequence[int], stride: Sequence[int], project: bool
    ) -> None:
        super().__init__()
        padding = tuple(size // 2 for size in kernel_size)
        self.conv1 = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding)
        self.norm1 = nn.InstanceNorm3d(out_channels, affine=True)
        self.conv2 = nn.Conv3d(out_channels, out_channels, kernel_size, padding=padding)
        self.norm2 = nn.InstanceNorm3d(out_channels, affine=True)
        self.conv3 = nn.Conv3d(in_channels, out_channels, 1, stride) if project else nn.Identity()
        self.act = nn.LeakyReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        return self.act(self.norm2(self.conv2(y)) + self.conv3(x))


class STUNet(nn.Module):
    """STU-Net, a residual U-Net whose width and depth scale together.

    Huang et al., "STU-Net: Scalable and Transferable Medical Image Segmentation Models Empowered by Large-Scale
    Supervised Pre-training", arXiv:2304.06716. State-dict keys are those of ``STUNet`` in uni-medical/STU-Net,
    ``nnUNet-2.2/nnunetv2/training/nnUNetTrainer/STUNetTrainer.py`` at commit 0652eaf. Deviations: ``deep_supervision``
    is the network's own attribute (upstream: that of an empty ``decoder``), a list is returned (upstream: a tuple), as
    by ``PlainConvUNet`` of dynamic-network-architectures, and a head whose output is not returned does not run.

    Weights start as torch's layers draw them, as upstream's do: an instance norm follows every convolution but those
    of shortcuts, up-sampling and heads.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        size: a row of :data:`STUNET_SIZES`; None where ``features`` are given.
        features: channels of each stage, the highest resolution first, at least two stages; in place of ``size``.
        depths: residual blocks of each stage, one number for all or one per stage; 1 where not given. A decoder stage
            has as many as the encoder stage of its resolution. Only beside ``features``.
        strides: voxels, from each stage to the next: one number for all, or one entry per step (one fewer than
            stages), each a number or one number per axis.
        kernel_sizes: voxels, odd: one number for all, or one entry per stage, each a number or one number per axis.
        deep_supervision: whether ``forward`` returns the outputs of all heads. All heads are built and are in the state
            dict either way; may be set as an attribute at any time.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: str | None = "B",
        features: Sequence[int] | None = None,
        depths: int | Sequence[int] | None = None,
        strides: int | Sequence[int | Sequence[int]] = 2,
        kernel_sizes: int | Sequence[int | Sequence[int]] = 3,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        features, depths = _choose_size(size, features, depths)
        strides = _per_axis(strides, len(features) - 1)
        kernels = _per_axis(kernel_sizes, len(features))
        self.in_channels = in_channels
        self.divisors = tuple(math.prod(steps) for steps in zip(*strides, strict=True))
        self.deep_supervision = deep_supervision
        self.conv_blocks_context = nn.ModuleList(
            map(_stage, (in_channels, *features[:-1]), features, kernels, ((1, 1, 1), *strides), depths)
        )
        # The decoder goes from the deepest stage but one upwards.
        above, below = features[-2::-1], features[:0:-1]
        self.upsample_layers = nn.ModuleList(map(_upsample, below, above, strides[::-1]))
        self.conv_blocks_localization = nn.ModuleList(
            _stage(2 * channels, channels, kernel, (1, 1, 1), depth)
            for channels, kernel, depth in zip(above, kernels[-2::-1], depths[-2::-1], strict=True)
        )
        self.seg_outputs = nn.ModuleList(nn.Conv3d(channels, out_channels, 1) for channels in above)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Compute logits. Returns ``(B, out_channels, H, W, D)``; with ``deep_supervision`` a list, one for each stage
        but the deepest, the highest resolution first. Raises InputError: another shape, an empty batch, or a single
        voxel left at the deepest stage: neither can be normalized.

        Args:
            x: ``(B, in_channels, H, W, D)``, each axis divisible by the product of its strides.
        """
        if not torch.jit.is_tracing():
            self._check_shape(tuple(x.shape))
        skips = []
        for stage in self.conv_blocks_context:
            x = stage(x)
            skips.append(x)
        skips.pop()
        outputs = []
        for upsample, stage, head in zip(
            self.upsample_layers, self.conv_blocks_localization, self.seg_outputs, strict=True
        ):
            x = stage(torch.cat((upsample(x), skips.pop()), dim=1))
            if self.deep_supervision:
                outputs.append(head(x))
        return outputs[::-1] if self.deep_supervision else self.seg_outputs[-1](x)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        fits = len(shape) == 5 and shape[0] > 0 and shape[1] == self.in_channels
        divisors = ", ".join(map(str, self.divisors))
        if not fits or any(voxels % divisor for voxels, divisor in zip(shape[2:], self.divisors, strict=True)):
            raise InputError(
                f"STUNet takes (B, {self.in_channels}, H, W, D) with B at least 1 and H, W, D divisible by {divisors}: "
                f"got {shape}. Pad the image or choose another roi_size."
            )
        if math.prod(shape[2:]) <= math.prod(self.divisors):
            raise InputError(
                f"STUNet normalizes over the voxels of its deepest stage and needs two of them; {divisors} voxels "
                f"leave one: got {shape}. Choose a larger roi_size."
            )


def _stage(in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int], depth: int) -> nn.Module:
    """``depth`` blocks; the first one has the stride, and a shortcut that is a convolution always."""
    blocks = [ResidualBlock(in_channels, out_channels, kernel, stride, project=True)]
    blocks += [ResidualBlock(out_channels, out_channels, kernel, (1, 1, 1), project=False) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def _upsample(in_channels: int, out_channels: int, stride: Sequence[int]) -> nn.Module:
    nearest = nn.Upsample(scale_factor=stride, mode="nearest")
    return nn.Sequential(OrderedDict(upsample=nearest, conv=nn.Conv3d(in_channels, out_channels, 1)))


def _choose_size(size: str | None, features: Any, depths: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The channels and the number of blocks of each stage."""
    if size is not None:
        features, depths = STUNET_SIZES[size]["features"], STUNET_SIZES[size]["depths"]
    return tuple(features), ensure_tuple_rep(1 if depths is None else depths, len(features))


def _per_axis(value: Any, count: int) -> list[tuple[int, ...]]:
    """``count`` entries of one number for each spatial axis."""
    return [ensure_tuple_rep(entry, 3) for entry in ensure_tuple_rep(value, count)]
