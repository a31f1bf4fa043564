"""Histograms of more values than are ever held at once, and the distance of two of them."""

from __future__ import annotations

import math

import torch

BINS = 2048
_MIN_EXPONENT = -100  # smaller data is told from zero no better


class StreamingHistogram:
    """Counts in 2048 bins over ``[-limit, limit]``, ``limit`` being the least power of two that holds all values seen.

    When it has to grow, neighbouring bins are merged. So the result depends neither on the order of the data nor on how
    they are cut into parts, and two histograms can be brought to the same bins exactly.

    Attributes:
        counts: ``(2048,)`` float64, whole numbers, on the CPU.
        exponent: ``limit`` is 2 to the power of it; None while only zeros were seen, all of which are in the bin that
            begins at 0.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.exponent: int | None = None

    @property
    def limit(self) -> float:
        """The end of the last bin; 1 while only zeros were seen."""
        return 2.0 ** (self.exponent or 0)

    @property
    def width(self) -> float:
        """Of a bin."""
        return 2 * self.limit / BINS

    def update(self, values: torch.Tensor) -> None:
        """See a tensor of any shape, all finite; an empty one changes nothing."""
        if values.numel() == 0:
            return
        values = values.double()  # counts in float32 would stop at 2^24
        largest = values.abs().max().item()
        if largest:
            self.widen(max(_MIN_EXPONENT, math.ceil(math.log2(largest))))
        self.counts += torch.histc(values, BINS, -self.limit, self.limit).cpu()

    def widen(self, exponent: int) -> None:
        """Make the limit 2 to the power of ``exponent``, where it is less."""
        while self.exponent is not None and self.exponent < exponent:
            merged = torch.zeros_like(self.counts)
            merged[BINS // 4 : -BINS // 4] = self.counts.view(-1, 2).sum(1)
            self.counts, self.exponent = merged, self.exponent + 1
        if self.exponent is None:
            self.exponent = exponent  # zeros stay where they are whatever the limit

    def percentile(self, percent: float) -> float:
        """The value below which ``percent`` % lie, interpolated within its bin; NaN before any value."""
        total = self.counts.sum().item()
        if not total:
            return math.nan
        cumulated = self.counts.cumsum(0)
        wanted = total * percent / 100
        index = min(int(torch.searchsorted(cumulated, wanted)), BINS - 1)
        inside = self.counts[index].item()
        share = (wanted - cumulated[index].item() + inside) / inside if inside else 0.0
        return (index + share) * self.width - self.limit


def same_bins(first: StreamingHistogram, second: StreamingHistogram) -> None:
    """Widen whichever of the two has the smaller limit."""
    for one, other in ((first, second), (second, first)):
        if other.exponent is not None:
            one.widen(other.exponent)


def wasserstein_distance(first: StreamingHistogram, second: StreamingHistogram) -> float:
    """1-Wasserstein distance, the area between the cumulated distributions, exact to one bin's width.

    NaN where either has seen nothing. Both are brought to the same bins.
    """
    p, q = _shares(first, second)
    return (p.cumsum(0) - q.cumsum(0)).abs().sum().item() * first.width


def total_variation(first: StreamingHistogram, second: StreamingHistogram) -> float:
    """Half the sum of the differences of the bins' shares, 0 to 1; NaN where either has seen nothing."""
    p, q = _shares(first, second)
    return (p - q).abs().sum().item() / 2


def _shares(first: StreamingHistogram, second: StreamingHistogram) -> tuple[torch.Tensor, torch.Tensor]:
    same_bins(first, second)
    return first.counts / first.counts.sum(), second.counts / second.counts.sum()
