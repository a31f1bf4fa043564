"""Label maps as the metrics take them."""

from __future__ import annotations

import torch


def label_map(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``(1, H, W, D)`` labels, MetaTensor or not, as a plain integer tensor ``(H, W, D)`` on the CPU."""
    return torch.as_tensor(tensor)[0].cpu().to(torch.int16)
