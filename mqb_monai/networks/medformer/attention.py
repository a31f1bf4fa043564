"""Attention of MedFormer: the features of a level and its semantic map inform each other.

Children bear the names that upstream's state dict has. Source: yhygao/CBIM-Medical-Image-Segmentation at 7c26979,
``model/dim3/medformer_utils.py``; dropout, zero in the published configuration, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mqb_monai.networks.medformer.blocks import (
    InvertedBottleneck,
    depthwise_separable_conv,
    pre_activated_conv,
    same_conv,
)


class BidirectionalAttention(nn.Module):
    """One attention matrix between features and map, read both ways.

    The matrix is ``Q_features Q_map^T / sqrt(head size)``. Softmax over the map's tokens mixes the map's values into
    the features, softmax over the features' tokens mixes the features' values into the map.

    Shapes: features ``(B, in_channels, H, W, D)`` to ``(B, out_channels, H, W, D)``; the map ``(B, out_channels,
    *map_size)`` to its update of the same shape, or to None where ``updates_map`` is False.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sequence[int], num_heads: int, updates_map: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (out_channels // num_heads) ** -0.5
        self.feat_qv = depthwise_separable_conv(in_channels, 2 * out_channels, kernel_size)
        self.feat_out = depthwise_separable_conv(out_channels, out_channels, kernel_size)
        self.map_qv = same_conv(out_channels, 2 * out_channels, kernel_size=1)
        self.map_out = same_conv(out_channels, out_channels, kernel_size=1) if updates_map else None

    def forward(self, features: Tensor, semantic_map: Tensor) -> tuple[Tensor, Tensor | None]:
        feature_queries, feature_values = self._split_heads(self.feat_qv(features))
        map_queries, map_values = self._split_heads(self.map_qv(semantic_map))
        similarity = feature_queries @ map_queries.transpose(-1, -2) * self.scale
        attended = self._merge_heads(similarity.softmax(dim=-1) @ map_values, features.shape[2:])
        if self.map_out is None:
            return self.feat_out(attended), None
        update = self._merge_heads(
            similarity.softmax(dim=-2).transpose(-1, -2) @ feature_values, semantic_map.shape[2:]
        )
        return self.feat_out(attended), self.map_out(update)

    def _split_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries and values, each ``(B, num_heads, tokens, head size)``. A head is every ``num_heads``-th channel."""
        return x.flatten(2).unflatten(1, (2, -1, self.num_heads)).permute(1, 0, 3, 4, 2).unbind()

    @staticmethod
    def _merge_heads(x: Tensor, spatial: Sequence[int]) -> Tensor:
        return x.permute(0, 3, 1, 2).flatten(1, 2).unflatten(2, spatial)


class BidirectionalAttentionBlock(nn.Module):
    """Bidirectional attention with shortcuts, then an inverted bottleneck on the features.

    Shapes: as :class:`BidirectionalAttention`; without ``updates_map`` the map comes out as it came in. Where the
    channels of the features change, their shortcut is a pre-activated 1x1x1 convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        num_heads: int,
        expansion: int,
        updates_map: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.InstanceNorm3d(in_channels)
        self.norm2 = nn.InstanceNorm3d(out_channels)
        self.attn = BidirectionalAttention(in_channels, out_channels, kernel_size, num_heads, updates_map)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else pre_activated_conv(in_channels, out_channels, kernel_size=1)
        self.feedforward = InvertedBottleneck(out_channels, kernel_size, expansion)

    def forward(self, features: Tensor, semantic_map: Tensor) -> tuple[Tensor, Tensor]:
        attended, update = self.attn(self.norm1(features), self.norm2(semantic_map))
        features = self.feedforward(attended + self.shortcut(features))
        return features, semantic_map if update is None else semantic_map + update


class BidirectionalAttentionBlocks(nn.Module):
    """Attention blocks in a row, the first of which changes the features' channels.

    ``updates_map=False`` spares the last block its map, for a stage whose map nobody reads.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        depth: int,
        num_heads: int,
        expansion: int,
        updates_map: bool = True,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (depth - 1)
        updates = [True] * (depth - 1) + [updates_map]
        self.blocks = nn.ModuleList(
            BidirectionalAttentionBlock(width, out_channels, kernel_size, num_heads, expansion, update)
            for width, update in zip(widths, updates, strict=True)
        )

    def forward(self, features: Tensor, semantic_map: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            features, semantic_map = block(features, semantic_map)
        return features, semantic_map
