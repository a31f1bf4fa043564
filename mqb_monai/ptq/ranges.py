"""Ranges of a layer's input: min-max, a percentile, or the range of least error.

    error(r) = sum |Q_r(x) - x|^p        r = the seen range shrunk by a factor

Nagel et al. 2021 (arXiv:2106.08295) section 3.1 has p = 2. A greater exponent counts the clipped values more: squared
error clips what a network with rare, large activations needs.
"""

from __future__ import annotations

import torch

from mqb_monai.quantization.affine import fake_quantize, range_qparams
from mqb_monai.quantization.scheme import QuantSpec

RANGES = ("minmax", "percentile", "mse")
CANDIDATES = 40
_NARROWEST = 0.2


def find_range(
    values: torch.Tensor,
    minimum: torch.Tensor,
    maximum: torch.Tensor,
    spec: QuantSpec,
    method: str = "minmax",
    exponent: float = 2.0,
    percentile: float = 99.99,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(scale, zero_point)`` of a static input, ``()`` per tensor or ``(C,)`` per channel.

    Args:
        values: ``(C, P)``, a sample.
        minimum, maximum: ``(C,)``, of all that was seen.
        spec: of the input; not dynamic.
        method: one of :data:`RANGES`.
        exponent: of ``mse``.
        percentile: of ``percentile``, of the sampled magnitudes at either end.
    """
    per_channel = spec.granularity == "per_channel"
    low, high = (minimum, maximum) if per_channel else (minimum.amin(), maximum.amax())
    if method == "minmax":
        return range_qparams(low, high, spec)
    if method == "percentile":
        flat = values if per_channel else values.reshape(1, -1)
        share = percentile / 100
        cut_low, cut_high = (_quantile(flat, 1 - share), _quantile(flat, share))
        cut_low, cut_high = cut_low.view(low.shape), cut_high.view(high.shape)
        return range_qparams(torch.maximum(low, cut_low), torch.minimum(high, cut_high), spec)
    return _least_error(values, low, high, spec, exponent)


def _least_error(
    values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, spec: QuantSpec, exponent: float
) -> tuple[torch.Tensor, torch.Tensor]:
    axis = 0 if spec.granularity == "per_channel" else None
    best = torch.full(low.shape, torch.inf)
    scale, zero_point = range_qparams(low, high, spec)
    for step in range(CANDIDATES, 0, -1):
        share = _NARROWEST + (1 - _NARROWEST) * step / CANDIDATES
        trial = range_qparams(low * share, high * share, spec)
        error = (fake_quantize(values, *trial, spec.qmin, spec.qmax, axis) - values).square()
        error = error if exponent == 2 else error.pow_(exponent / 2)
        error = (error.sum(1, dtype=torch.float64) if axis == 0 else error.sum(dtype=torch.float64)).float()
        better = error < best
        best = torch.where(better, error, best)
        scale, zero_point = torch.where(better, trial[0], scale), torch.where(better, trial[1], zero_point)
    return scale, zero_point


def _quantile(rows: torch.Tensor, share: float) -> torch.Tensor:
    """Of each row; by sorting, since torch.quantile takes at most 2^24 values."""
    ordered = rows.sort(1).values
    return ordered[:, min(ordered.shape[1] - 1, int(share * ordered.shape[1]))]
