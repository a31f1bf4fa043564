"""Mean, variance and kurtosis of more values than are ever held at once."""

from __future__ import annotations

import math

import torch


class StreamingMoments:
    """Range and central moments of all values seen, in float64.

    The parts are merged by the formulas of Pébay 2008 (Sandia report SAND2008-6212, equations 1.2 and following, after
    Chan et al. 1979), which lose no digits where a sum of powers would. Before any value ``minimum`` and ``maximum``
    are infinite and ``mean`` is 0.
    """

    def __init__(self) -> None:
        self.count = 0
        self.minimum, self.maximum = math.inf, -math.inf
        self.mean = self._m2 = self._m3 = self._m4 = 0.0

    def update(self, values: torch.Tensor) -> None:
        """See a tensor of any shape; an empty one changes nothing."""
        if values.numel() == 0:
            return
        values = values.double()
        mean = values.mean()
        deviation = values - mean
        squares = deviation.square()
        self.minimum = min(self.minimum, values.min().item())
        self.maximum = max(self.maximum, values.max().item())
        moments = (squares.sum(), (squares * deviation).sum(), squares.square_().sum())
        self._merge(values.numel(), mean.item(), *(moment.item() for moment in moments))

    def _merge(self, n: int, mean: float, m2: float, m3: float, m4: float) -> None:
        own, total = self.count, self.count + n
        delta = mean - self.mean
        self._m4 += (
            m4
            + delta**4 * own * n * (own**2 - own * n + n**2) / total**3
            + 6 * delta**2 * (own**2 * m2 + n**2 * self._m2) / total**2
            + 4 * delta * (own * m3 - n * self._m3) / total
        )
        self._m3 += m3 + delta**3 * own * n * (own - n) / total**2 + 3 * delta * (own * m2 - n * self._m2) / total
        self._m2 += m2 + delta**2 * own * n / total
        self.mean += delta * n / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation of the population; NaN before any value."""
        return math.sqrt(self._m2 / self.count) if self.count else math.nan

    @property
    def kurtosis(self) -> float:
        """Excess kurtosis of the population, 0 for a normal distribution; NaN for constant values and before any."""
        return self.count * self._m4 / self._m2**2 - 3 if self._m2 else math.nan
