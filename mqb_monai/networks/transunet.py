"""The 3D TransUNet of MedPTQ: a U-Net whose deepest features pass through a stack of transformer blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from mqb_monai.errors import InputError

STRIDE = 16  # of the deepest level: four halvings


class DoubleConv(nn.Module):
    """Twice a 3x3x3 convolution with bias, batch norm and ReLU; the first one has the stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class UpConv(nn.Module):
    """Double the spatial size by a transposed convolution, then concatenate: upsampled first, skip second."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.up(x), skip], dim=1)


class SelfAttention(nn.Module):
    """Multi-head self-attention on tokens ``(B, N, C)``, each projection a Linear of its own, so that it is quantized.

    Computes what ``nn.MultiheadAttention`` does; the two matrix products between the projections stay float.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """A post-norm transformer block on tokens ``(B, N, C)``: ``norm1(x + attention)``, then ``norm2(x + mlp)``."""

    def __init__(self, hidden_size: int, mlp_dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(hidden_size, num_heads)
        self.norm1 = nn.LayerNorm(hidden_size)
        self.linear1 = nn.Linear(hidden_size, mlp_dim)
        self.act = nn.GELU()
        self.linear2 = nn.Linear(mlp_dim, hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x + self.self_attn(x))
        return self.norm2(x + self.linear2(self.act(self.linear1(x))))


class TransUNet(nn.Module):
    """MedPTQ's 3D TransUNet: five levels of convolutions, transformer blocks on the deepest, a decoder with skips.

    After Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation" (2021), in 3D as
    upstream's ``TransUNet3D``, hrlblab/PTQ ``networks/transunet.py`` at 86ee6fe. Upstream is GPL-2.0: this is written
    from its shapes and outputs alone.

    Deviations: q, k and v are three Linears where upstream packs them into one ``in_proj_weight``
    (:func:`split_in_proj` renames a state dict); the window need not be a cube; the widths may be any. Not from
    upstream, since its checkpoints overwrite it: position embeddings start at normal(0, 0.02). Raises InputError: a
    window that is not three positive multiples of 16; in ``forward``, an input of another window.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits, background included.
        img_size: the window ``(H, W, D)`` in voxels, multiples of 16; the network takes no other.
        features: channels at the strides 1, 2, 4, 8 and 16.
        hidden_size: width of a token, a multiple of ``num_heads``.
        mlp_dim: width between the two Linears of a transformer block.
        num_heads: attention heads.
        num_layers: transformer blocks.

    ``forward`` maps an image ``(B, in_channels, *img_size)`` to logits ``(B, out_channels, *img_size)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: Sequence[int] = (96, 96, 96),
        features: Sequence[int] = (16, 32, 64, 128, 256),
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
        num_layers: int = 12,
    ) -> None:
        super().__init__()
        if len(img_size) != 3 or any(size <= 0 or size % STRIDE for size in img_size):
            raise InputError(f"TransUNet: img_size must be three positive multiples of {STRIDE}, got {tuple(img_size)}")
        self.img_size = tuple(img_size)
        self.grid = tuple(size // STRIDE for size in img_size)
        f1, f2, f3, f4, f5 = features
        self.conv1 = DoubleConv(in_channels, f1)
        self.conv2 = DoubleConv(f1, f2, stride=2)
        self.conv3 = DoubleConv(f2, f3, stride=2)
        self.conv4 = DoubleConv(f3, f4, stride=2)
        self.conv5 = DoubleConv(f4, f5, stride=2)
        self.embed_conv = nn.Conv3d(f5, hidden_size, 1)
        self.position_embeddings = nn.Parameter(torch.empty(1, math.prod(self.grid), hidden_size))
        nn.init.normal_(self.position_embeddings, std=0.02)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(hidden_size, mlp_dim, num_heads) for _ in range(num_layers)
        )
        self.upconv4, self.dec4 = UpConv(hidden_size, f4), DoubleConv(2 * f4, f4)
        self.upconv3, self.dec3 = UpConv(f4, f3), DoubleConv(2 * f3, f3)
        self.upconv2, self.dec2 = UpConv(f3, f2), DoubleConv(2 * f2, f2)
        self.upconv1, self.dec1 = UpConv(f2, f1), DoubleConv(2 * f1, f1)
        self.final_conv = nn.Conv3d(f1, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if tuple(x.shape[2:]) != self.img_size:
            raise InputError(
                f"TransUNet takes windows of {self.img_size} (its position embeddings fix it), got "
                f"{tuple(x.shape[2:])}. Set the inferer's roi_size to img_size."
            )
        skip1 = self.conv1(x)
        skip2 = self.conv2(skip1)
        skip3 = self.conv3(skip2)
        skip4 = self.conv4(skip3)
        x = self._transform(self.conv5(skip4))
        x = self.dec4(self.upconv4(x, skip4))
        x = self.dec3(self.upconv3(x, skip3))
        x = self.dec2(self.upconv2(x, skip2))
        x = self.dec1(self.upconv1(x, skip1))
        return self.final_conv(x)

    def _transform(self, x: torch.Tensor) -> torch.Tensor:
        """Transformer blocks on the voxels in C order: ``(B, f5, *grid)`` -> ``(B, hidden_size, *grid)``."""
        tokens = self.embed_conv(x).flatten(2).transpose(1, 2) + self.position_embeddings
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return tokens.transpose(1, 2).unflatten(2, self.grid)


def split_in_proj(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename a state dict with packed attention weights to that of :class:`TransUNet`. Returns a new dict in the same
    order, each of them as ``*.q_proj.*``, ``*.k_proj.*`` and ``*.v_proj.*`` (views); everything else as it is. An empty
    dict for an empty one.

    Args:
        state: upstream's; every ``*.in_proj_weight`` is ``(3 * C, C)``, every ``*.in_proj_bias`` ``(3 * C,)``.
    """
    split: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        prefix, packed, kind = key.rpartition("in_proj_")
        if packed:
            split |= {f"{prefix}{name}_proj.{kind}": part for name, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            split[key] = tensor
    return split
