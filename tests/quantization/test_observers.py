from __future__ import annotations

import numpy as np
import pytest
import torch

from mqb_monai.errors import InputError
from mqb_monai.quantization.affine import fake_quantize, range_qparams
from mqb_monai.quantization.observers import OBSERVERS, MinMaxObserver, MseObserver, PercentileObserver
from mqb_monai.quantization.scheme import OBSERVER_NAMES, QuantSpec

SYMMETRIC, ASYMMETRIC = QuantSpec(8, "per_tensor"), QuantSpec(8, "per_tensor", symmetric=False)


def test_observers_are_those_of_the_spec():
    assert tuple(OBSERVERS) == OBSERVER_NAMES


def test_minmax_runs_over_batches_by_hand():
    observer = MinMaxObserver(axis=1)
    observer.update(torch.tensor([[[1.0, 2.0], [-3.0, 0.0]]]))
    observer.update(torch.zeros(0, 2, 2))
    observer.update(torch.tensor([[[-1.0, 0.0], [1.0, 127.0]]]))
    scale, zero_point = observer.qparams(QuantSpec(8, "per_channel"))
    assert torch.equal(scale, torch.tensor([2.0, 127.0]) / 127)
    assert zero_point.tolist() == [0, 0]


def test_minmax_per_tensor_asymmetric_by_hand():
    observer = MinMaxObserver()
    observer.update(torch.tensor([-51.0, 204.0]))
    scale, zero_point = observer.qparams(ASYMMETRIC)
    assert (scale.shape, scale.item(), zero_point.item()) == ((), 1.0, 51)


@pytest.mark.parametrize("name", OBSERVER_NAMES)
def test_observer_of_nan_of_nothing_and_of_zeros(name):
    for bad in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(InputError, match="NaN or Inf"):
            OBSERVERS[name]().update(torch.tensor([0.0, bad]))
    with pytest.raises(InputError, match="no calibration data"):
        OBSERVERS[name]().qparams(SYMMETRIC)
    observer = OBSERVERS[name](axis=1)
    observer.update(torch.zeros(1, 2, 3))
    for spec in (SYMMETRIC, ASYMMETRIC):
        scale, zero_point = observer.qparams(spec)
        assert (scale.tolist(), zero_point.tolist()) == ([1.0, 1.0], [0, 0])


@pytest.mark.parametrize("axis", [None, 1])
def test_percentile_against_numpy(axis):
    for percentile in (90.0, 99.0, 99.5):
        _check_percentile(axis, percentile)


def _check_percentile(axis, percentile):
    x = torch.randn(4, 3, 4000, generator=torch.Generator().manual_seed(0)) + 0.5
    observer = PercentileObserver(axis, percentile)
    for part in x.split(1):
        observer.update(part)
    rows = x.movedim(1, 0).flatten(1).numpy() if axis else x.reshape(1, -1).numpy()
    width = observer.histogram.width.max().item()
    _, high = observer.range(SYMMETRIC)
    np.testing.assert_allclose(high.view(-1), np.percentile(np.abs(rows), percentile, axis=1), atol=2 * width)
    low, high = observer.range(ASYMMETRIC)
    np.testing.assert_allclose(high.view(-1), np.percentile(rows, percentile, axis=1), atol=2 * width)
    np.testing.assert_allclose(low.view(-1), np.percentile(rows, 100 - percentile, axis=1), atol=2 * width)
    assert observer.qparams(SYMMETRIC)[0].shape == ((3,) if axis else ())


def test_percentile_100_is_minmax():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    percentile, minmax = PercentileObserver(percentile=100), MinMaxObserver()
    percentile.update(x), minmax.update(x)
    for spec in (SYMMETRIC, ASYMMETRIC):
        torch.testing.assert_close(percentile.qparams(spec)[0], minmax.qparams(spec)[0])
    with pytest.raises(InputError, match="over 50 and at most 100"):
        PercentileObserver(percentile=50)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("num_bits", [8, 4])
def test_mse_is_near_the_best_of_an_exact_search(num_bits, symmetric):
    """Oracle: the same grid search on the data themselves instead of their histogram."""
    spec = QuantSpec(num_bits, "per_tensor", symmetric)
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    x[:5] = torch.tensor([15.0, -12.0, 9.0, 11.0, -8.0])

    def error(scale, zero_point):
        return (fake_quantize(x, scale, zero_point, spec.qmin, spec.qmax) - x).square().mean().item()

    exact = min(error(*range_qparams(x.min() * k / 100, x.max() * k / 100, spec)) for k in range(1, 101))
    mse, minmax = MseObserver(), MinMaxObserver()
    mse.update(x), minmax.update(x)
    assert error(*mse.qparams(spec)) <= 1.05 * exact
    assert num_bits == 8 or error(*mse.qparams(spec)) < 0.5 * error(*minmax.qparams(spec))


def test_mse_keeps_exact_zeros_free_of_error():
    observer = MseObserver(axis=1)
    x = torch.zeros(1, 2, 1000)
    x[..., :4] = torch.tensor([1.0, 2.0, 3.0, 7.0])
    observer.update(x)
    scale, _ = observer.qparams(QuantSpec(4, "per_channel"))
    torch.testing.assert_close(scale, torch.ones(2), rtol=0.05, atol=0)  # the grid 1, 2, ..., 7 has them all
