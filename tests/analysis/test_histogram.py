from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mqb_monai.analysis.histogram import BINS, StreamingHistogram, total_variation, wasserstein_distance


def histogram_of(*parts):
    histogram = StreamingHistogram()
    for part in parts:
        histogram.update(torch.as_tensor(part))
    return histogram


def test_streaming_histogram_equals_numpys_whatever_the_order():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 1, 4000)
    histogram = histogram_of(*values.split(700))
    backwards = histogram_of(*values.flip(0).split(1300))
    largest = values.abs().max().item()
    assert histogram.limit / 2 < largest <= histogram.limit and math.log2(histogram.limit).is_integer()
    edges = np.linspace(-histogram.limit, histogram.limit, BINS + 1)
    expected, _ = np.histogram(values.double().numpy(), edges)  # oracle: numpy on all at once
    assert histogram.counts.tolist() == expected.tolist() == backwards.counts.tolist()


def test_streaming_histogram_keeps_zeros_at_zero_when_it_grows():
    histogram = histogram_of(torch.zeros(5), torch.zeros(0), torch.tensor([0.75]), torch.tensor([-6.0, 8.0]))
    assert histogram.limit == 8  # a power of two is its own limit, in the last bin
    filled = {int(i): histogram.counts[i].item() for i in histogram.counts.nonzero()}
    assert filled == {BINS // 8: 1, BINS // 2: 5, BINS // 2 + 0.75 / histogram.width: 1, BINS - 1: 1}


def test_streaming_histogram_percentiles_are_within_a_bin():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    histogram = histogram_of(values)
    for percent in (0.1, 1, 50, 99, 99.9):
        expected = np.percentile(values.numpy(), percent, method="inverted_cdf")  # oracle: numpy
        assert histogram.percentile(percent) == pytest.approx(expected, abs=histogram.width)
    assert math.isnan(StreamingHistogram().percentile(50))


def test_wasserstein_distance_is_scipys_within_a_bin():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(3000, generator=generator), torch.randn(2000, generator=generator).exp() * 3
    distance = wasserstein_distance(one := histogram_of(first), histogram_of(second))
    assert distance == pytest.approx(stats.wasserstein_distance(first, second), abs=one.width)  # oracle: scipy


def test_distances_by_hand():
    # Half of the values moved by 1: W1 = 0.5, TV = 0.5. Nothing in common: TV 1.
    first, second = histogram_of([0.0, 0.0]), histogram_of([0.0, 1.0])
    assert wasserstein_distance(first, second) == pytest.approx(0.5, abs=first.width)
    assert total_variation(first, second) == 0.5
    assert total_variation(histogram_of([-3.0]), histogram_of([0.1, 0.2])) == 1
    assert total_variation(second, second) == wasserstein_distance(second, second) == 0


def test_distances_to_nothing_are_nan():
    empty = StreamingHistogram()
    assert math.isnan(total_variation(empty, histogram_of([1.0])))
    assert math.isnan(wasserstein_distance(histogram_of([1.0]), empty))
