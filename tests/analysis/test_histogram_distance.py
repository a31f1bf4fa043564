from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from mqb_monai.analysis.histogram_distance import total_variation, wasserstein_distance
from mqb_monai.quantization.histogram import StreamingHistogram


def histogram_of(values):
    histogram = StreamingHistogram()
    histogram.update(torch.as_tensor(values).reshape(1, -1))
    return histogram


def test_wasserstein_distance_is_scipys_within_a_bin():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(3000, generator=generator), torch.randn(2000, generator=generator).exp() * 3
    distance = wasserstein_distance(one := histogram_of(first), histogram_of(second))
    assert distance == pytest.approx(stats.wasserstein_distance(first, second), abs=one.width.item())  # oracle: scipy


def test_distances_by_hand():
    # Half of the values moved by 1: W1 = 0.5, TV = 0.5. Nothing in common: TV 1.
    first, second = histogram_of([0.0, 0.0]), histogram_of([0.0, 1.0])
    assert wasserstein_distance(first, second) == pytest.approx(0.5, abs=first.width.item())
    assert total_variation(first, second) == 0.5
    assert total_variation(histogram_of([-3.0]), histogram_of([0.1, 0.2])) == 1
    assert total_variation(second, second) == wasserstein_distance(second, second) == 0


def test_distances_to_nothing_are_nan():
    empty = StreamingHistogram()
    assert math.isnan(total_variation(empty, histogram_of([1.0])))
    assert math.isnan(wasserstein_distance(histogram_of([1.0]), empty))
