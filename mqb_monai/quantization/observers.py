"""Observers: what calibration keeps of the data it sees, in bounded memory, and the qparams that follow from it.

Wu et al. 2020 (arXiv:2004.09602) section 5.2 compares the first two; the third is arXiv:2106.08295 section 3.1.
"""

from __future__ import annotations

import torch

from mqb_monai.errors import InputError
from mqb_monai.quantization.affine import dequantize_affine, quantize_affine, range_qparams
from mqb_monai.quantization.histogram import BINS, StreamingHistogram, bin_quantile
from mqb_monai.quantization.scheme import QuantSpec


class MinMaxObserver:
    """Least and greatest value seen: no clipping.

    Args:
        axis: the channel axis of what :meth:`update` gets (1 for activations ``(B, C, H, W, D)``), None for one range.
    """

    def __init__(self, axis: int | None = None):
        self.axis = axis
        self.minimum: torch.Tensor | None = None
        self.maximum: torch.Tensor | None = None

    @torch.no_grad()
    def update(self, x: torch.Tensor) -> None:
        """See one tensor, any shape with :attr:`axis` in it; an empty one changes nothing. Raises InputError: NaN or
        Inf in ``x`` (which layer it is, the caller adds).
        """
        if x.numel() == 0:
            return
        x = x.detach()
        others = [i for i in range(x.dim()) if self.axis is None or i != self.axis % x.dim()]
        low, high = (x.amin(others), x.amax(others)) if others else (x, x)
        low, high = low.float(), high.float()
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise InputError("NaN or Inf in the data")
        self.minimum = low.clone() if self.minimum is None else torch.minimum(self.minimum, low)
        self.maximum = high.clone() if self.maximum is None else torch.maximum(self.maximum, high)

    def qparams(self, spec: QuantSpec) -> tuple[torch.Tensor, torch.Tensor]:
        """``(scale, zero_point)``, each ``()`` or ``(C,)``. Raises InputError: nothing was seen yet."""
        if self.minimum is None:
            raise InputError("no calibration data: the observer has seen nothing")
        return range_qparams(*self.range(spec), spec)

    def range(self, spec: QuantSpec) -> tuple[torch.Tensor, torch.Tensor]:
        """The range to be represented, ``(minimum, maximum)``."""
        return self.minimum, self.maximum


class HistogramObserver(MinMaxObserver):
    """A :class:`~mqb_monai.quantization.histogram.StreamingHistogram` beside the exact minimum and maximum."""

    def __init__(self, axis: int | None = None):
        super().__init__(axis)
        self.histogram = StreamingHistogram()

    def update(self, x: torch.Tensor) -> None:
        super().update(x)
        if x.numel():
            self.histogram.update(x.reshape(1, -1) if self.axis is None else x.movedim(self.axis, 0).flatten(1))

    def _shaped(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ranges ``(C,)`` in the shape of the observed ones and never outside them."""
        low = torch.maximum(low.float().view(self.minimum.shape), self.minimum)
        high = torch.minimum(high.float().view(self.maximum.shape), self.maximum)
        return low, high


class PercentileObserver(HistogramObserver):
    """Clip the rarest values: the range that holds ``percentile`` % of what was seen (arXiv:2004.09602 section 5.2).

    Symmetric: that percentile of the magnitudes. Asymmetric: the same share is cut off at either end. Values are
    interpolated within a bin, so that they are exact to one bin's width.
    """

    def __init__(self, axis: int | None = None, percentile: float = 99.99):
        super().__init__(axis)
        if not 50 < percentile <= 100:
            raise InputError(f"percentile must be over 50 and at most 100, got {percentile}")
        self.share = percentile / 100

    def range(self, spec: QuantSpec) -> tuple[torch.Tensor, torch.Tensor]:
        counts, width, half = self.histogram.counts, self.histogram.width, BINS // 2
        if not spec.symmetric:
            below = (half - bin_quantile(counts.flip(1), self.share)) * width
            return self._shaped(below, self.histogram.quantile(self.share))
        folded = counts[:, half:] + counts[:, :half].flip(1)
        magnitude = (bin_quantile(folded, self.share) * width).view(self.minimum.shape)
        limit = torch.minimum(magnitude.float(), torch.maximum(self.minimum.abs(), self.maximum.abs()))
        return -limit, limit


class MseObserver(HistogramObserver):
    """The range of least squared error: the seen range shrunk by the best of :attr:`candidates` factors.

    arXiv:2106.08295 section 3.1, equation 8, by grid search over the histogram's bin centres.
    """

    candidates = 100

    def range(self, spec: QuantSpec) -> tuple[torch.Tensor, torch.Tensor]:
        centres = self.histogram.edges() + self.histogram.width[:, None] / 2
        # Mostly exact zeros (ReLU, background) are on every grid: the middle bin's centre would count them as errors.
        centres[:, BINS // 2] = 0
        low, high = self.minimum.view(-1), self.maximum.view(-1)
        best = torch.full_like(low, torch.inf, dtype=torch.float64)
        factor = torch.ones_like(low)
        for step in range(self.candidates, 0, -1):
            share = step / self.candidates
            scale, zero_point = range_qparams(low * share, high * share, spec)
            q = quantize_affine(centres, scale, zero_point, spec.qmin, spec.qmax, axis=0)
            error = (dequantize_affine(q, scale, zero_point, axis=0) - centres).double().square()
            error = (error * self.histogram.counts).sum(1)
            factor = torch.where(error < best, share, factor)
            best = torch.minimum(error, best)
        return self._shaped(low * factor, high * factor)


OBSERVERS = {"minmax": MinMaxObserver, "percentile": PercentileObserver, "mse": MseObserver}
