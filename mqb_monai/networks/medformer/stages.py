"""Stages of MedFormer that are more than a row of blocks: down with a semantic map, up with one, up without.

Children bear the names that upstream's state dict has. Source: yhygao/CBIM-Medical-Image-Segmentation at 7c26979,
``model/dim3/medformer_utils.py``, whose ``down_block`` and ``up_block`` hold every case.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mqb_monai.networks.medformer.attention import BidirectionalAttentionBlocks
from mqb_monai.networks.medformer.blocks import PatchMerging, basic_blocks, same_conv
from mqb_monai.networks.medformer.semantic_map import SemanticMapGeneration


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Trilinear, corners aligned, to the spatial ``size``."""
    return F.interpolate(x, size=size, mode="trilinear", align_corners=True)


def join_skip(x: Tensor, skip: Tensor) -> Tensor:
    """``x`` upsampled to the size of ``skip`` and, after it, ``skip`` as further channels."""
    return torch.cat([upsample(x, skip.shape[2:]), skip], dim=1)


class AttentionDown(nn.Module):
    """Patch merging, convolution blocks, a semantic map made from their output, then attention between the two.

    Shapes: ``(B, in_channels, H, W, D)`` to features ``(B, out_channels, H/strides[0], ...)`` and their map
    ``(B, out_channels, *map_size)``. ``attention``: the depth, num_heads and expansion of the attention blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        strides: Sequence[int],
        num_conv_blocks: int,
        map_size: Sequence[int],
        **attention: int,
    ) -> None:
        super().__init__()
        self.patch_merging = PatchMerging(in_channels, out_channels, kernel_size, strides)
        self.conv_blocks = basic_blocks(out_channels, out_channels, kernel_size, num_conv_blocks)
        self.map_gen = SemanticMapGeneration(out_channels, map_size)
        self.trans_blocks = BidirectionalAttentionBlocks(out_channels, out_channels, kernel_size, **attention)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv_blocks(self.patch_merging(x))
        return self.trans_blocks(x, self.map_gen(x))


class AttentionUp(nn.Module):
    """Features and map of the deeper level joined with the skip's, attention between the two, convolution blocks.

    Shapes: features ``(B, C, h, w, d)``, skip ``(B, S, H, W, D)``, their maps ``(B, C, *map_size)`` and
    ``(B, S, *map_size)``, where C + S is ``in_channels``, to features ``(B, out_channels, H, W, D)`` and their map
    ``(B, out_channels, *map_size)``. ``attention``: as of :class:`AttentionDown`, and updates_map.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sequence[int], num_conv_blocks: int, **attention: int
    ) -> None:
        super().__init__()
        self.map_reduction = same_conv(in_channels, out_channels, kernel_size=1)
        self.trans_blocks = BidirectionalAttentionBlocks(in_channels, out_channels, kernel_size, **attention)
        self.conv_blocks = basic_blocks(out_channels, out_channels, kernel_size, num_conv_blocks)

    def forward(self, x: Tensor, skip: Tensor, semantic_map: Tensor, skip_map: Tensor) -> tuple[Tensor, Tensor]:
        semantic_map = self.map_reduction(torch.cat([semantic_map, skip_map], dim=1))
        x, semantic_map = self.trans_blocks(join_skip(x, skip), semantic_map)
        return self.conv_blocks(x), semantic_map


class ConvUp(nn.Module):
    """Features of the deeper level joined with the skip's, then convolution blocks.

    Shapes: features ``(B, C, h, w, d)`` and skip ``(B, S, H, W, D)``, where C + S is ``in_channels``, to
    ``(B, out_channels, H, W, D)``.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int], num_conv_blocks: int) -> None:
        super().__init__()
        self.conv_blocks = basic_blocks(in_channels, out_channels, kernel_size, num_conv_blocks)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv_blocks(join_skip(x, skip))
