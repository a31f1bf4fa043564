"""Equalization of input channels: each is multiplied by a factor, and the weight divided by it.

    f_c = (max|W_c|)^(1 - a) / (max|x_c|)^a        conv(x, W) = conv(f x, W / f)

Xiao et al. 2023, SmoothQuant (arXiv:2211.10438) equation 4 (there ``s = 1 / f``), for linear layers; here for
convolutions and transposed ones as well, and the strength ``a`` is searched for every layer. The factors' geometric
mean is 1. FP32 computes the same; after rounding, channels with a small range no longer share the scale of a large one.
"""

from __future__ import annotations

import torch


def equalizing_factor(input_range: torch.Tensor, weight_range: torch.Tensor, strength: float) -> torch.Tensor:
    """``f`` ``(C_in,)``, all ones for strength 0. Channels that are always zero, or whose weights are, get factor 1
    before the mean is taken.

    Args:
        input_range: ``(C_in,)``, the largest magnitude of each input channel.
        weight_range: ``(C_in,)``, that of the weights which meet it.
        strength: ``a`` from 0 (none) to 1 (every input channel gets the same range).
    """
    if strength == 0 or len(input_range) == 1:
        return torch.ones_like(input_range)
    used = (input_range > 0) & (weight_range > 0)
    if not used.any():
        return torch.ones_like(input_range)
    logarithm = (1 - strength) * weight_range.double().clamp(min=1e-30).log()
    logarithm = logarithm - strength * input_range.double().clamp(min=1e-30).log()
    logarithm = torch.where(used, logarithm - logarithm[used].mean(), 0.0)
    return logarithm.exp().float()
