from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from mqb_monai.analysis.moments import StreamingMoments


def moments_of(parts):
    moments = StreamingMoments()
    for part in parts:
        moments.update(part)
    return moments


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_streaming_moments_equal_scipy_on_everything_at_once(offset):
    generator = torch.Generator().manual_seed(0)
    sizes = [(3, 4), (1,), (0,), (2, 50, 7), (999,)]
    parts = [torch.randn(size, generator=generator).exp() * (i + 1) + offset for i, size in enumerate(sizes)]
    values = torch.cat([part.flatten() for part in parts]).double().numpy()
    moments = moments_of(parts)
    assert moments.count == values.size
    assert (moments.minimum, moments.maximum) == (values.min(), values.max())
    assert moments.mean == pytest.approx(values.mean(), rel=1e-12)
    assert moments.std == pytest.approx(values.std(), rel=1e-9)
    assert moments.kurtosis == pytest.approx(stats.kurtosis(values), rel=1e-6)  # oracle: scipy, population, excess


def test_streaming_moments_of_constant_values():
    moments = moments_of([torch.full((3,), 2.0), torch.full((2,), 2.0)])
    assert (moments.mean, moments.std) == (2, 0) and math.isnan(moments.kurtosis)


def test_streaming_moments_of_nothing():
    moments = moments_of([torch.zeros(0)])
    assert moments.count == 0 and math.isnan(moments.std) and math.isnan(moments.kurtosis)
