"""UNesT: a nested transformer encoder with a convolutional decoder, as in the MONAI model zoo."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution, UnetOutBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from monai.networks.blocks.dynunet_block import get_conv_layer
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.networks.unest.nested_transformer import NUM_LEVELS, NestTransformer

BLOCKS_PER_SIDE = 2 ** (NUM_LEVELS - 1)


class UNesT(nn.Module):
    """UNesT (Yu et al., Medical Image Analysis 2023, https://arxiv.org/abs/2209.14378).

    Upstream: Project-MONAI/model-zoo, models/wholeBrainSeg_Large_UNEST_segmentation/scripts/networks/
    unest_base_patch_4.py at dfae206. The defaults have its state-dict keys and its outputs. Deviations: ``img_size``
    and ``in_channels`` count (upstream takes 96 and 1 whatever it is told); any even ``patch_size`` works, not only 4;
    ``embed_dim[2]`` need not be ``32 * feature_size``; below the last level, an odd side of a block is not halved.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        img_size: the one window that the network takes, in voxels, which its position embeddings fix; every side a
            multiple of ``4 * patch_size``.
        patch_size: voxels along each side of a token's patch; even.
        depths: transformer layers of the three levels.
        embed_dim: channels of the three levels.
        num_heads: attention heads of the three levels; each divides its ``embed_dim``.
        feature_size: the decoder has 2, 4, 8 and 16 times as many channels, from full resolution down.
        drop_path_rate: stochastic depth in training, of the last layer; it rises linearly from 0 at the first.

    Raises:
        InputError: an ``img_size`` that the blocks do not divide, naming which they do.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: Sequence[int] = (96, 96, 96),
        patch_size: int = 4,
        depths: Sequence[int] = (2, 2, 8),
        embed_dim: Sequence[int] = (128, 256, 512),
        num_heads: Sequence[int] = (4, 8, 16),
        feature_size: int = 16,
        drop_path_rate: float = 0.5,
    ) -> None:
        super().__init__()
        block_size = _block_size(img_size, patch_size)
        self.in_channels, self.img_size = in_channels, tuple(img_size)
        self.nestViT = NestTransformer(
            in_channels, patch_size, block_size, depths, embed_dim, num_heads, drop_path_rate
        )
        full, half, quarter, eighth = (feature_size * factor for factor in (2, 4, 8, 16))
        last, bottom_stride = embed_dim[2], _bottom_stride(block_size)
        self.encoder1 = _residual(in_channels, full)
        self.encoder2 = _projection_up(embed_dim[0], half, patch_size // 2)
        self.encoder3 = _residual(embed_dim[0], quarter)
        self.encoder4 = _residual(embed_dim[1], eighth)
        self.decoder5 = _up(2 * last, last, bottom_stride)
        self.decoder4 = _up(last, eighth, 2)
        self.decoder3 = _up(eighth, quarter, 2)
        self.decoder2 = _up(quarter, half, patch_size // 2)
        self.decoder1 = _up(half, full, 2)
        self.encoder10 = Convolution(3, last, 2 * last, strides=bottom_stride, adn_ordering="ADN")
        self.out = UnetOutBlock(3, full, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Segment ``(B, in_channels, *img_size)`` into logits ``(B, out_channels, *img_size)``.

        Raises:
            InputError: an input of another size.
        """
        if tuple(x.shape[1:]) != (self.in_channels, *self.img_size):
            expected = ", ".join(str(size) for size in (self.in_channels, *self.img_size))
            raise InputError(
                f"UNesT was built for inputs (B, {expected}), got {tuple(x.shape)}: its position embeddings fix the "
                "window. Make that the roi_size of the sliding window, or build the network with another img_size."
            )
        bottom, (patches, level1, level2, level3) = self.nestViT(x)
        y = self.decoder5(self.encoder10(bottom), level3)
        y = self.decoder4(y, self.encoder4(level2))
        y = self.decoder3(y, self.encoder3(level1))
        y = self.decoder2(y, self.encoder2(patches))
        return self.out(self.decoder1(y, self.encoder1(x)))


def _residual(in_channels: int, out_channels: int) -> UnetrBasicBlock:
    return UnetrBasicBlock(3, in_channels, out_channels, kernel_size=3, stride=1, norm_name="instance", res_block=True)


def _up(in_channels: int, out_channels: int, upsample: Sequence[int] | int) -> UnetrUpBlock:
    return UnetrUpBlock(
        3, in_channels, out_channels, kernel_size=3, upsample_kernel_size=upsample, norm_name="instance", res_block=True
    )


def _projection_up(in_channels: int, out_channels: int, upsample: int) -> UnetrPrUpBlock:
    """Upstream's: a second layer of kernel 1, where MONAI's block would enlarge a second time."""
    block = UnetrPrUpBlock(
        3,
        in_channels,
        out_channels,
        num_layer=0,
        kernel_size=3,
        stride=1,
        upsample_kernel_size=upsample,
        norm_name="instance",
    )
    block.blocks.append(get_conv_layer(3, out_channels, out_channels, kernel_size=1, is_transposed=True))
    return block


def _bottom_stride(block_size: Sequence[int]) -> tuple[int, ...]:
    """The stride below the last level, whose feature map is one block: an odd side could not be doubled back."""
    return tuple(2 if side % 2 == 0 else 1 for side in block_size)


def _block_size(img_size: Sequence[int], patch_size: int) -> tuple[int, ...]:
    """Tokens along each side of a block."""
    unit = patch_size * BLOCKS_PER_SIDE
    if len(img_size) != 3 or any(side < unit or side % unit for side in img_size):
        sides = ", ".join(str(unit * factor) for factor in range(1, 7))
        raise InputError(
            f"img_size has to be three multiples of {unit} (patch_size {patch_size} x {BLOCKS_PER_SIDE} blocks along "
            f"each side): {sides}, ...; got {tuple(img_size)}."
        )
    block_size = tuple(side // unit for side in img_size)
    if math.prod(block_size) == math.prod(_bottom_stride(block_size)):
        raise InputError(
            f"img_size {tuple(img_size)} leaves one voxel at the lowest resolution, which an instance norm cannot "
            f"normalize; make one side at least {3 * unit}, or patch_size smaller than {patch_size}."
        )
    return block_size
