from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mqb_monai.quantization.histogram import BINS, StreamingHistogram


def histogram_of(*parts):
    histogram = StreamingHistogram()
    for part in parts:
        histogram.update(torch.as_tensor(part).reshape(1, -1))
    return histogram


def test_streaming_histogram_equals_numpys_whatever_the_order():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 4000)
    histogram = histogram_of(*values.split(700))
    backwards = histogram_of(*values.flip(0).split(1300))
    largest = values.abs().max().item()
    limit = histogram.limit.item()
    assert limit / 2 < largest <= limit and math.log2(limit).is_integer()
    edges = np.linspace(-limit, limit, BINS + 1)
    expected, _ = np.histogram(values.double().numpy(), edges)  # oracle: numpy on all at once
    assert histogram.counts[0].tolist() == expected.tolist() == backwards.counts[0].tolist()


def test_streaming_histogram_keeps_zeros_at_zero_when_it_grows():
    histogram = histogram_of(torch.zeros(5), torch.zeros(0), torch.tensor([0.75]), torch.tensor([-6.0, 8.0]))
    assert histogram.limit == 8  # a power of two is its own limit, in the last bin
    filled = {int(i): histogram.counts[0, i].item() for i in histogram.counts[0].nonzero()}
    assert filled == {BINS // 8: 1, BINS // 2: 5, BINS // 2 + 0.75 / histogram.width.item(): 1, BINS - 1: 1}


def test_streaming_histogram_percentiles_are_within_a_bin():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    histogram = histogram_of(values)
    for percent in (0.1, 1, 50, 99, 99.9):
        expected = np.percentile(values.numpy(), percent, method="inverted_cdf")  # oracle: numpy
        assert histogram.quantile(percent / 100).item() == pytest.approx(expected, abs=histogram.width.item())


def test_streaming_histogram_has_a_limit_for_every_channel():
    """Oracle: each channel by itself."""
    x = torch.randn(3, 2, 500, generator=torch.Generator().manual_seed(0))
    x[1, 0] *= 40
    x[:, 1] = 0
    together = StreamingHistogram()
    for part in x:
        together.update(part)
    for channel in range(2):
        alone = histogram_of(x[:, channel])
        assert torch.equal(together.counts[channel], alone.counts[0]) and together.limit[channel] == alone.limit
    assert together.limit[1] == 0 and together.counts[1, BINS // 2] == 1500
