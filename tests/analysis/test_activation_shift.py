from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from mqb_monai.analysis.activation_shift import ShiftObserver, total_variation, wasserstein_distance
from mqb_monai.analysis.lockstep import Lockstep
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize, quantized_layers
from mqb_monai.quantization.histogram import StreamingHistogram


def shifts_of(network, quantized, inputs):
    observer = ShiftObserver()
    lockstep = Lockstep(network, quantized, quantized_layers(quantized), observer)
    for x in inputs:
        lockstep(x)
    return {(shift.layer, shift.role): shift for shift in observer.shifts()}


def decibels(signal, noise):
    return 10 * math.log10(np.square(signal).sum() / np.square(noise).sum())


def test_shift_observer_equals_numpy_and_scipy_on_kept_activations():
    # Oracle: numpy and scipy on all activations of a chain of two layers, computed outside.
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 3, 1)).eval()
    inputs = [torch.randn(1, 1, 7, 7, 7) * scale for scale in (1, 2)]
    quantized = quantize(network, "w4a4_per_channel", inputs).eval()
    shift = shifts_of(network, quantized, inputs)["1", "input"]
    with torch.no_grad():
        fp32 = np.concatenate([network[0](x).double().numpy().ravel() for x in inputs])
        shifted = np.concatenate([quantized[0](x).double().numpy().ravel() for x in inputs])
        rounded = [quantized[1].fake_quantize_input(quantized[0](x)).double().numpy().ravel() for x in inputs]
    for values, found in ((fp32, shift.fp32), (shifted, shift.quantized)):
        assert (found.minimum, found.maximum) == (values.min(), values.max())
        assert (found.mean, found.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))
        assert found.kurtosis == pytest.approx(stats.kurtosis(values))
    width = 2 * 2 ** math.ceil(math.log2(max(abs(fp32).max(), abs(shifted).max()))) / 2048
    distance = stats.wasserstein_distance(fp32, shifted) / fp32.std()
    assert shift.wasserstein == pytest.approx(distance, abs=width / fp32.std())
    assert 0 < shift.total_variation < 1
    assert shift.sqnr_db == pytest.approx(decibels(fp32, shifted - fp32))
    assert shift.rounding_sqnr_db == pytest.approx(decibels(shifted, np.concatenate(rounded) - shifted))
    assert shift.kind == "Conv3d 1x1x1" and shift.outliers is not None


def test_shift_observer_follows_the_running_order_with_inputs_and_outputs(tricky, x):
    network, quantized = tricky
    shifts = shifts_of(network, quantized, [x])
    layers = ["stem.0", "shared", "branches.left", "branches.right", "token", "head"]
    assert list(shifts) == [(layer, role) for layer in layers for role in ("input", "output")]
    first = shifts["stem.0", "input"]
    assert math.isnan(first.sqnr_db) and first.total_variation == first.wasserstein == 0  # nothing shifted so far
    assert first.rounding_sqnr_db > 0
    assert shifts["head", "output"].sqnr_db < 40 and shifts["head", "output"].outliers is None
    assert math.isnan(shifts["head", "output"].rounding_sqnr_db)


def test_drawn_histogram_covers_all_values_in_at_most_64_bins(tricky, x):
    for shift in shifts_of(*tricky, [x]).values():
        bins = shift.histogram
        assert 1 <= len(bins.fp32) == len(bins.quantized) <= 64
        assert sum(bins.fp32) == pytest.approx(1) and sum(bins.quantized) == pytest.approx(1)
        assert bins.low <= min(shift.fp32.minimum, shift.quantized.minimum)
        assert bins.high >= max(shift.fp32.maximum, shift.quantized.maximum)


def test_shift_observer_of_nothing_is_empty():
    assert ShiftObserver().shifts() == ()


def test_shift_observer_names_the_layer_with_a_nan(tricky, x):
    network, quantized = tricky
    with torch.no_grad():
        network.shared.bias[0] = math.nan
    with pytest.raises(InputError, match="layer shared: NaN or Inf in its output in the FP32 network"):
        shifts_of(network, quantized, [x])


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
