"""The encoder of UNesT: a nested transformer (NesT), whose attention stays inside blocks of tokens.

Zhang et al., Nested Hierarchical Transformer, AAAI 2022 (https://arxiv.org/abs/2105.12723), in 3D as in
Project-MONAI/model-zoo, models/wholeBrainSeg_Large_UNEST_segmentation/scripts/networks/nest_transformer_3D.py at
dfae206: the same state-dict keys, our own code. The deviations are those of
:class:`mqb_monai.networks.unest.network.UNesT`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.blocks import PatchEmbed
from monai.networks.layers import DropPath
from monai.networks.nets.swin_unetr import window_partition, window_reverse
from torch import nn

NUM_LEVELS = 3
LAYER_NORM_EPS = 1e-6
MLP_RATIO = 4


class BlockAttention(nn.Module):
    """Multi-head self-attention among the tokens of each block: ``(B, T, N, C)`` to the same shape.

    ``T`` counts blocks and ``N`` the tokens of one. The two matrix products are in ``scaled_dot_product_attention``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, n, c = x.shape
        qkv = self.qkv(x).reshape(b * t, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)  # (B * T, heads, N, C / heads)
        # Upstream takes the heads apart as (heads, C / heads) and joins them as (C / heads, heads).
        return self.proj(x.permute(0, 2, 3, 1).reshape(b, t, n, c))


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer on ``(B, T, N, C)`` tokens, with stochastic depth per sample."""

    def __init__(self, dim: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        hidden = MLP_RATIO * dim
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = BlockAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(dim, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, dim)))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class BlockAggregation(nn.Module):
    """Halves ``(B, C_in, H, W, D)`` of even sides across the blocks' borders: ``(B, C_out, H / 2, W / 2, D / 2)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(out_channels, eps=LAYER_NORM_EPS)
        self.pool = nn.MaxPool3d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(over_channels(self.norm, self.conv(x)))


class NestLevel(nn.Module):
    """One level: halve where it is not the first, then attend within blocks; ``(B, C, H, W, D)`` in and out.

    Args:
        layers: the transformer layers on tokens of ``dim`` channels.
        dim: channels.
        num_blocks: blocks in the whole volume at this level.
        block_size: tokens along each side of a block.
        pool: the halving in front.
    """

    def __init__(
        self, layers: Sequence[nn.Module], dim: int, num_blocks: int, block_size: Sequence[int], pool: nn.Module
    ) -> None:
        super().__init__()
        self.block_size = tuple(block_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, num_blocks, math.prod(block_size), dim))
        self.pool = pool
        self.transformer_encoder = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(x).movedim(1, -1)
        dims = x.shape[:-1]
        tokens = window_partition(x, self.block_size).reshape(-1, *self.pos_embed.shape[1:])
        tokens = self.transformer_encoder(tokens + self.pos_embed)
        return window_reverse(tokens, self.block_size, dims).movedim(-1, 1)


class NestTransformer(nn.Module):
    """Three levels of 64, 8 and 1 blocks, each block of the same size in tokens.

    Args:
        in_channels: channels of the image.
        patch_size: voxels along each side of a token's patch.
        block_size: tokens along each side of a block; the image has ``4 * patch_size`` times as many voxels.
        depths: transformer layers of each level.
        embed_dim: channels of each level.
        num_heads: attention heads of each level, dividing its channels.
        drop_path_rate: stochastic depth of the last layer; it rises linearly from 0 at the first.
    """

    def __init__(
        self,
        in_channels: int,
        patch_size: int,
        block_size: Sequence[int],
        depths: Sequence[int],
        embed_dim: Sequence[int],
        num_heads: Sequence[int],
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim[0], norm_layer=None)
        # Plain numbers, so that the network can be built on the meta device.
        rates = iter([drop_path_rate * i / (sum(depths) - 1) for i in range(sum(depths))])
        self.levels = nn.ModuleList()
        for i, (depth, dim, heads) in enumerate(zip(depths, embed_dim, num_heads, strict=True)):
            layers = [TransformerLayer(dim, heads, next(rates)) for _ in range(depth)]
            pool = BlockAggregation(embed_dim[i - 1], dim) if i else nn.Identity()
            self.levels.append(NestLevel(layers, dim, 8 ** (NUM_LEVELS - 1 - i), block_size, pool))
        self.norm = nn.LayerNorm(embed_dim[-1], eps=LAYER_NORM_EPS)
        self.apply(_initialize)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Encode ``(B, in_channels, H, W, D)``. Returns the last level after the final norm, and the hidden states
        before it: patch embedding, then each level.
        """
        hidden = [self.patch_embed(x)]
        for level in self.levels:
            hidden.append(level(hidden[-1]))
        return over_channels(self.norm, hidden[-1]), hidden


def over_channels(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """Apply a LayerNorm to the channels of ``(B, C, H, W, D)``."""
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def _initialize(module: nn.Module) -> None:
    """Upstream's start: normal of standard deviation 0.02, cut at 2; convolutions keep torch's own."""
    if isinstance(module, NestLevel):
        nn.init.trunc_normal_(module.pos_embed, std=0.02)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
