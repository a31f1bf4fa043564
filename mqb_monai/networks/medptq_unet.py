"""The plain 3D U-Net of MedPTQ, whose published quantization results the study compares with."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from mqb_monai.errors import InputError

DIVISOR = 16  # four halvings


class MedPTQUNet(nn.Module):
    """A 3D U-Net of five stages with batch norm, down-sampling by strided and up-sampling by transposed convolutions.

    "Post-Training Quantization for 3D Medical Image Segmentation: A Practical Study on Real Inference Engines",
    arXiv:2501.17343.
    State-dict keys are those of ``UNet3D`` in hrlblab/PTQ, ``networks/Unet.py`` at commit 86ee6fe. Upstream's licence
    is GPL-2.0: this is written from names, shapes and outputs alone.

    Args:
        in_channels: channels of the image.
        out_channels: classes, background included.
        features: channels of the first stage; each of the four below has twice as many as the one above it.
    """

    def __init__(self, in_channels: int, out_channels: int, features: int = 16) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.inc = _named(double_conv=_two_convolutions(in_channels, features))
        self.down1 = _named(down_conv=_two_convolutions(features, 2 * features, stride=2))
        self.down2 = _named(down_conv=_two_convolutions(2 * features, 4 * features, stride=2))
        self.down3 = _named(down_conv=_two_convolutions(4 * features, 8 * features, stride=2))
        self.down4 = _named(down_conv=_two_convolutions(8 * features, 16 * features, stride=2))
        self.up1 = Up(16 * features, 8 * features)
        self.up2 = Up(8 * features, 4 * features)
        self.up3 = Up(4 * features, 2 * features)
        self.up4 = Up(2 * features, features)
        self.outc = _named(conv=nn.Conv3d(features, out_channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits. Returns ``(B, out_channels, H, W, D)``; an empty batch comes out empty. Raises InputError:
        another shape.

        Args:
            x: ``(B, in_channels, H, W, D)``, each axis divisible by 16.
        """
        if not torch.jit.is_tracing():
            self._check_shape(tuple(x.shape))
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        return self.outc(self.up4(x, x1))

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        fits = len(shape) == 5 and shape[1] == self.in_channels
        if not fits or any(voxels % DIVISOR for voxels in shape[2:]):
            raise InputError(
                f"MedPTQUNet takes (B, {self.in_channels}, H, W, D) with H, W, D divisible by {DIVISOR}: got {shape}. "
                "Pad the image or choose another roi_size."
            )


class Up(nn.Module):
    """Double the size, put the skip connection in front, convolve twice."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, out_channels, kernel_size=2, stride=2)
        self.conv = _named(double_conv=_two_convolutions(2 * out_channels, out_channels))

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat((skip, self.up(x)), dim=1))


def _two_convolutions(in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    """Twice conv-norm-act, no bias before a norm; the first convolution has the stride."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


def _named(**modules: nn.Module) -> nn.Module:
    """A sequence whose parts have upstream's names."""
    return nn.Sequential(OrderedDict(modules))
