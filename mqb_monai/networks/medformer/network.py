"""MedFormer: a U-shaped 3D network whose features and small semantic maps attend to each other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from mqb_monai.errors import InputError
from mqb_monai.networks.medformer.blocks import BasicBlock, PatchMerging, basic_blocks, same_conv
from mqb_monai.networks.medformer.semantic_map import SemanticMapFusion
from mqb_monai.networks.medformer.stages import AttentionDown, AttentionUp, ConvUp, upsample


class MedFormer(nn.Module):
    """MedFormer with a stem, four stages down and four up.

    Gao et al., "A Data-scalable Transformer for Medical Image Segmentation: Architecture, Model Efficiency, and
    Benchmark", arXiv:2203.00131. Source: yhygao/CBIM-Medical-Image-Segmentation at 7c26979,
    ``model/dim3/medformer.py``, whose state-dict keys it keeps. Deviations: InstanceNorm, ReLU, basic blocks and
    depthwise projections are fixed and there is no dropout, as in the published configuration (the defaults here); the
    auxiliary output comes in training mode only. Raises InputError: in ``forward``, an image of other channels or of a
    size not allowed.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output, background included.
        stem_features: channels at full resolution.
        features: output channels of the eight stages, the four down first.
        num_conv_blocks: convolution blocks of each stage; at least one in stages 7 and 8.
        num_attention_blocks: attention blocks of each stage: at least one in stages 2 to 6, none in the others.
        num_heads: attention heads of each stage, dividing its features; without effect in stages 1, 7 and 8.
        kernel_size: one odd triple for each of the five resolutions, the full one first.
        strides: one triple for each stage down.
        map_size: tokens of the semantic maps along each of their three axes.
        fusion_depth: transformer layers that fuse the semantic maps of stages 2 to 4.
        fusion_features: channels of these layers.
        fusion_heads: attention heads of these layers, dividing ``fusion_features``.
        expansion: of the inverted bottleneck after each attention, at least 2.
        auxiliary_outputs: in training mode, also give an output made from stage 6.

    Shapes: ``(B, in_channels, H, W, D)`` to ``(B, out_channels, H, W, D)``; in training mode with
    ``auxiliary_outputs`` to a list of two such tensors, the main one first. Each spatial axis must be a multiple of the
    product of its strides, with more than one voxel left at the lowest resolution.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 14,
        stem_features: int = 32,
        features: Sequence[int] = (64, 128, 256, 320, 256, 128, 64, 32),
        num_conv_blocks: Sequence[int] = (2, 0, 0, 0, 0, 0, 2, 2),
        num_attention_blocks: Sequence[int] = (0, 2, 4, 6, 4, 2, 0, 0),
        num_heads: Sequence[int] = (1, 4, 8, 10, 8, 4, 1, 1),
        kernel_size: Sequence[Sequence[int]] = ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
        strides: Sequence[Sequence[int]] = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
        map_size: Sequence[int] = (3, 3, 3),
        fusion_depth: int = 2,
        fusion_features: int = 320,
        fusion_heads: int = 10,
        expansion: int = 4,
        auxiliary_outputs: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.factors = tuple(prod(axis) for axis in zip(*strides, strict=True))
        # Indexed by stage, the stem being stage 0. Stage n on the way up takes the skip of stage 8 - n.
        widths, kernels = (stem_features, *features), (*kernel_size, *reversed(kernel_size[:4]))
        convs, attentions, heads = (0, *num_conv_blocks), (0, *num_attention_blocks), (0, *num_heads)

        def attention(n: int) -> dict[str, int]:
            return {"depth": attentions[n], "num_heads": heads[n], "expansion": expansion}

        def down(n: int) -> AttentionDown:
            return AttentionDown(
                widths[n - 1], widths[n], kernels[n], strides[n - 1], convs[n], map_size, **attention(n)
            )

        def up(n: int, **map_use: bool) -> AttentionUp:
            joined = widths[n - 1] + widths[8 - n]
            return AttentionUp(joined, widths[n], kernels[n], convs[n], **attention(n), **map_use)

        self.inc = nn.Sequential(
            OrderedDict(
                conv1=same_conv(in_channels, stem_features, kernels[0]),
                conv2=BasicBlock(stem_features, stem_features, kernels[0]),
            )
        )
        self.down1 = nn.Sequential(
            OrderedDict(
                patch_merging=PatchMerging(stem_features, widths[1], kernels[1], strides[0]),
                conv_blocks=basic_blocks(widths[1], widths[1], kernels[1], convs[1]),
            )
        )
        self.down2, self.down3, self.down4 = down(2), down(3), down(4)
        self.map_fusion = SemanticMapFusion(widths[2:5], fusion_features, fusion_depth, fusion_heads)
        self.up1, self.up2 = up(5), up(6, updates_map=False)
        self.up3 = ConvUp(widths[6] + widths[1], widths[7], kernels[7], convs[7])
        self.up4 = ConvUp(widths[7] + widths[0], widths[8], kernels[8], convs[8])
        self.aux_out = nn.Conv3d(widths[6], out_channels, kernel_size=1) if auxiliary_outputs else None
        self.outc = nn.Conv3d(widths[8], out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if not torch.jit.is_tracing():
            self._check_image(tuple(x.shape))
        x0 = self.inc(x)
        x1 = self.down1(x0)
        x2, map2 = self.down2(x1)
        x3, map3 = self.down3(x2)
        x4, map4 = self.down4(x3)
        map2, map3, map4 = self.map_fusion([map2, map3, map4])
        y, semantic_map = self.up1(x4, x3, map4, map3)
        y, _ = self.up2(y, x2, semantic_map, map2)
        output = self.outc(self.up4(self.up3(y, x1), x0))
        if self.aux_out is None or not self.training:
            return output
        return [output, upsample(self.aux_out(y), x.shape[2:])]

    def _check_image(self, shape: tuple[int, ...]) -> None:
        size = shape[2:]
        fits = len(size) == 3 and all(n % factor == 0 for n, factor in zip(size, self.factors, strict=True))
        # InstanceNorm needs more than one voxel.
        if not fits or shape[1] != self.in_channels or prod(size) == prod(self.factors):
            height, width, depth = self.factors
            raise InputError(
                f"MedFormer takes images (B, {self.in_channels}, H, W, D) with H, W, D multiples of {height}, {width}, "
                f"{depth} and not all equal to these; got {shape}: pad or crop the image, or choose another roi_size"
            )
