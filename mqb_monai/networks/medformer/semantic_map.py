"""Semantic maps of MedFormer: small grids of tokens pooled from the features of a level, and their fusion.

Children bear the names that upstream's state dict has. Source: yhygao/CBIM-Medical-Image-Segmentation at 7c26979,
``model/dim3/medformer_utils.py`` and ``trans_layers.py``; dropout, zero in the published configuration, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mqb_monai.networks.medformer.blocks import same_conv


class SemanticMapGeneration(nn.Module):
    """Pools features ``(B, C, H, W, D)`` into a map ``(B, C, *map_size)``.

    Each token of the map is a weighted mean over all voxels, its weights a softmax over the voxels.
    """

    def __init__(self, channels: int, map_size: Sequence[int]) -> None:
        super().__init__()
        self.map_size = tuple(map_size)
        self.base_proj = same_conv(channels, channels, kernel_size=3)
        self.semantic_proj = same_conv(channels, prod(map_size), kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.semantic_proj(x).flatten(2).softmax(dim=2)
        return (self.base_proj(x).flatten(2) @ weights.transpose(1, 2)).unflatten(2, self.map_size)


class SelfAttention(nn.Module):
    """Multi-head self-attention of tokens ``(B, N, C)``; queries, keys and values without bias."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.to_qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return self.to_out(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two linear layers as wide as their tokens ``(B, N, C)``, exact GELU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PreNormResidual(nn.Module):
    """``x + fn(layer_norm(x))`` on tokens ``(B, N, C)``."""

    def __init__(self, channels: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(self.norm(x))


class Transformer(nn.Module):
    """``depth`` pre-norm transformer layers on tokens ``(B, N, C)``."""

    def __init__(self, channels: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for _ in range(depth):
            parts = SelfAttention(channels, num_heads), Perceptron(channels)
            self.layers.append(nn.Sequential(*(PreNormResidual(channels, part) for part in parts)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SemanticMapFusion(nn.Module):
    """A transformer over the tokens of the semantic maps of several levels, all of one map size.

    Shapes: a list of maps ``(B, in_channels[i], *map_size)``, shallow level first, to a list of the same shapes.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.in_proj = nn.ModuleList(same_conv(width, channels, kernel_size=1) for width in in_channels)
        self.fusion = Transformer(channels, depth, num_heads)
        self.out_proj = nn.ModuleList(same_conv(channels, width, kernel_size=1) for width in in_channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        map_size = maps[0].shape[2:]
        projected = [project(x).flatten(2) for project, x in zip(self.in_proj, maps, strict=True)]
        tokens = self.fusion(torch.cat(projected, dim=2).transpose(1, 2))
        fused = tokens.transpose(1, 2).chunk(len(maps), dim=2)
        return [project(x.unflatten(2, map_size)) for project, x in zip(self.out_proj, fused, strict=True)]
