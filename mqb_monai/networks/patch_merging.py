"""The patch merging that SwinUNETR checkpoints from before MONAI 1.5 were trained with."""

from __future__ import annotations

import torch
from monai.networks.nets.swin_unetr import PatchMergingV2

from mqb_monai.errors import InputError

LEGACY_ORDER = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))


class LegacyPatchMerging(PatchMergingV2):
    """Halve a grid of tokens as MONAI before 1.5 did, which takes two of the eight sub-grids twice and two never.

    Give the class to MONAI's network: ``SwinUNETR(..., downsample=LegacyPatchMerging)``. Its parameters have the keys
    and shapes of MONAI's own ``"merging"``, so that an old checkpoint loads strictly into both; only the order of
    what is concatenated differs, and with the other class the results are wrong without an error.

    Upstream: ``PatchMerging`` in Project-MONAI/MONAI ``monai/networks/nets/swin_unetr.py`` at a2ec375 (1.1.0), from its
    documented order. Deviations: 3D only, and an odd grid is refused where upstream pads it (SwinUNETR takes multiples
    of 32 only, so that its grids are always even). Raises InputError: ``spatial_dims`` other than 3; in ``forward``,
    tokens that are not 5D or an odd H, W or D.

    Args:
        dim: channels C of a token.
        norm_layer: class of the norm over 8 C channels.
        spatial_dims: 3.

    ``forward`` maps tokens ``(B, H, W, D, C)`` to ``(B, H/2, W/2, D/2, 2 C)``.
    """

    def __init__(
        self, dim: int, norm_layer: type[torch.nn.LayerNorm] = torch.nn.LayerNorm, spatial_dims: int = 3
    ) -> None:
        if spatial_dims != 3:
            raise InputError(
                f"LegacyPatchMerging is 3D only, got spatial_dims {spatial_dims}. "
                "In 2D the order never changed: use downsample='merging'."
            )
        super().__init__(dim, norm_layer, spatial_dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 5 or any(size % 2 for size in x.shape[1:4]):
            raise InputError(
                f"LegacyPatchMerging takes tokens (B, H, W, D, C) with even H, W, D, got {tuple(x.shape)}. "
                "Give SwinUNETR a window in multiples of 32."
            )
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in LEGACY_ORDER], dim=-1)
        return self.reduction(self.norm(x))
