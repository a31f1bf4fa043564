"""How far two streaming histograms of one channel lie apart."""

from __future__ import annotations

import math

import torch

from mqb_monai.quantization.histogram import StreamingHistogram


def same_bins(first: StreamingHistogram, second: StreamingHistogram) -> None:
    """Widen whichever of the two has the smaller limit."""
    first.widen(second.limit)
    second.widen(first.limit)


def wasserstein_distance(first: StreamingHistogram, second: StreamingHistogram) -> float:
    """1-Wasserstein distance, the area between the cumulated distributions, exact to one bin's width.

    NaN where either has seen nothing. Both are brought to the same bins.
    """
    if first.counts is None or second.counts is None:
        return math.nan
    p, q = _shares(first, second)
    return (p.cumsum(0) - q.cumsum(0)).abs().sum().item() * first.width.item()


def total_variation(first: StreamingHistogram, second: StreamingHistogram) -> float:
    """Half the sum of the differences of the bins' shares, 0 to 1; NaN where either has seen nothing."""
    if first.counts is None or second.counts is None:
        return math.nan
    p, q = _shares(first, second)
    return (p - q).abs().sum().item() / 2


def _shares(first: StreamingHistogram, second: StreamingHistogram) -> tuple[torch.Tensor, torch.Tensor]:
    same_bins(first, second)
    return tuple(each.counts[0].double() / each.counts.sum() for each in (first, second))
