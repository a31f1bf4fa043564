"""Histograms of more values than are ever held at once, one per channel."""

from __future__ import annotations

import torch

BINS = 2048
_LEAST_LIMIT = 2.0**-100  # a bin's width must be a usable number; smaller data is not told from zero


class StreamingHistogram:
    """Counts in 2048 bins over ``[-limit, limit]``, ``limit`` being the least power of two that holds all values seen.

    When it has to grow, neighbouring bins are merged. So the result depends neither on the order of the data nor on how
    they are cut into parts, and two histograms can be brought to the same bins exactly.

    Attributes:
        counts: ``(C, 2048)`` int64; None before any value.
        limit: ``(C,)``, the end of each channel's last bin; 0 while only zeros were seen, all of which are in the bin
            that begins at 0. None before any value.
    """

    def __init__(self) -> None:
        self.counts: torch.Tensor | None = None
        self.limit: torch.Tensor | None = None

    @property
    def width(self) -> torch.Tensor:
        """Of each channel's bins, ``(C,)``; 1 where only zeros were seen."""
        return torch.where(self.limit > 0, self.limit * (2 / BINS), 1.0)

    @torch.no_grad()
    def update(self, rows: torch.Tensor) -> None:
        """See ``rows`` ``(C, N)``, all finite, with the same C every time; no values change nothing."""
        if rows.numel() == 0:
            return
        rows = rows.detach().float()
        self.widen(_power_of_two(torch.maximum(rows.amax(1), -rows.amin(1))))
        index = torch.floor(rows / self.width[:, None]).long().add_(BINS // 2).clamp_(0, BINS - 1)
        index += torch.arange(len(rows), device=rows.device)[:, None] * BINS
        self.counts += torch.bincount(index.flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def widen(self, limit: torch.Tensor) -> None:
        """Make the limits at least ``limit`` ``(C,)``, powers of two or 0."""
        if self.counts is None:
            self.counts = torch.zeros(len(limit), BINS, dtype=torch.int64, device=limit.device)
            self.limit = torch.zeros_like(limit)
        self.limit = torch.where(self.limit == 0, limit, self.limit)  # zeros stay where they are whatever the limit
        quarter = BINS // 4
        while (narrow := self.limit < limit).any():
            merged = torch.zeros_like(self.counts[narrow])
            merged[:, quarter:-quarter] = self.counts[narrow].view(-1, BINS // 2, 2).sum(2)
            self.counts[narrow] = merged
            self.limit = torch.where(narrow, self.limit * 2, self.limit)

    def edges(self) -> torch.Tensor:
        """Lower edges of the bins, ``(C, 2048)``."""
        steps = torch.arange(BINS, device=self.counts.device) - BINS // 2
        return steps * self.width[:, None]

    def quantile(self, share: float) -> torch.Tensor:
        """The value of each channel below which this share of its values lies, ``(C,)`` float64.

        Interpolated within its bin, and so exact to one bin's width.
        """
        return (bin_quantile(self.counts, share) - BINS // 2) * self.width


def bin_quantile(counts: torch.Tensor, share: float) -> torch.Tensor:
    """Position ``(C,)``, in bins from the left edge, below which ``share`` of ``counts`` ``(C, bins)`` lies."""
    cumulated = counts.double().cumsum(1)
    wanted = cumulated[:, -1:] * share
    index = torch.searchsorted(cumulated, wanted).clamp(max=counts.shape[1] - 1)
    inside = counts.gather(1, index).double()
    before = cumulated.gather(1, index) - inside
    return (index + ((wanted - before) / inside.clamp(min=1)).clamp(0, 1)).squeeze(1)


def _power_of_two(magnitude: torch.Tensor) -> torch.Tensor:
    """The least power of two that is not under ``magnitude``; 0 for 0."""
    mantissa, exponent = torch.frexp(magnitude)  # mantissa from 0.5, which is a power of two itself, to 1
    limit = torch.ldexp(torch.where(mantissa == 0.5, 0.5, 1.0), exponent).clamp(min=_LEAST_LIMIT)
    return torch.where(magnitude > 0, limit, 0.0)
