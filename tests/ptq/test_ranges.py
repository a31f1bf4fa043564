from __future__ import annotations

import pytest
import torch

from mqb_monai.ptq import ranges
from mqb_monai.ptq.ranges import find_range
from mqb_monai.quantization import QuantSpec

GENERATOR = torch.Generator().manual_seed(0)
VALUES = torch.randn(3, 200, generator=GENERATOR) * torch.tensor([[1.0], [2.0], [8.0]])
VALUES[:, 0] *= 6  # outliers


def brute_force(values: torch.Tensor, spec: QuantSpec, exponent: float) -> tuple[float, int]:
    """Of one row: each candidate range tried by plain arithmetic."""
    best, found = float("inf"), (1.0, 0)
    for step in range(ranges.CANDIDATES, 0, -1):
        share = ranges._NARROWEST + (1 - ranges._NARROWEST) * step / ranges.CANDIDATES
        low, high = min(values.min().item(), 0) * share, max(values.max().item(), 0) * share
        if spec.symmetric:
            scale, zero_point = max(-low, high) / spec.qmax, 0
        else:
            scale = (high - low) / spec.qmax
            zero_point = round(-low / scale)
        q = (values.double() / scale).round() + zero_point
        error = ((q.clamp(spec.qmin, spec.qmax) - zero_point) * scale - values).abs().pow(exponent).sum().item()
        if error < best * (1 - 1e-6):
            best, found = error, (scale, zero_point)
    return found


@pytest.mark.parametrize("exponent", [2.0, 4.0])
@pytest.mark.parametrize("symmetric", [True, False])
def test_find_range_mse_per_tensor_by_brute_force(symmetric, exponent):
    spec = QuantSpec(4, "per_tensor", symmetric)
    scale, zero_point = find_range(VALUES, VALUES.amin(1), VALUES.amax(1), spec, "mse", exponent)
    expected = brute_force(VALUES.flatten(), spec, exponent)
    assert scale.shape == () and (scale.item(), zero_point.item()) == pytest.approx(expected, rel=1e-5)
    assert scale < find_range(VALUES, VALUES.amin(1), VALUES.amax(1), spec)[0]  # it clips


@pytest.mark.parametrize("symmetric", [True, False])
def test_find_range_mse_per_channel_by_brute_force(symmetric):
    spec = QuantSpec(4, "per_channel", symmetric)
    scale, zero_point = find_range(VALUES, VALUES.amin(1), VALUES.amax(1), spec, "mse")
    for row, values in enumerate(VALUES):
        expected = brute_force(values, spec, 2.0)
        assert (scale[row].item(), zero_point[row].item()) == pytest.approx(expected, rel=1e-5), row


def test_find_range_of_a_greater_exponent_clips_less():
    spec = QuantSpec(4, "per_tensor")
    scales = [find_range(VALUES, VALUES.amin(1), VALUES.amax(1), spec, "mse", p)[0] for p in (1.0, 2.0, 4.0, 8.0)]
    assert scales == sorted(scales) and scales[0] < scales[-1]


def test_find_range_minmax_by_hand():
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([0.5, 14.0])
    values = torch.zeros(2, 5)
    assert find_range(values, low, high, QuantSpec(4, "per_tensor"))[0].item() == 2  # 14 / 7
    scale, zero_point = find_range(values, low, high, QuantSpec(4, "per_tensor", symmetric=False))
    assert (scale.item(), zero_point.item()) == (1, 1)  # (14 + 1) / 15
    assert find_range(values, low, high, QuantSpec(4, "per_channel"))[0].tolist() == pytest.approx([1 / 7, 2])


def test_find_range_percentile_by_hand():
    values = torch.arange(1000.0)[None] - 499  # -499 to 500
    ends = values.amin(1), values.amax(1)
    scale, zero_point = find_range(values, *ends, QuantSpec(8, "per_tensor", False), "percentile", percentile=99.0)
    # The tenth value from below, -489, to the tenth from above, 491: 980 / 255
    assert scale.item() == pytest.approx(980 / 255) and zero_point.item() == round(489 / 980 * 255)
    channels = find_range(
        values.repeat(2, 1), ends[0].repeat(2), ends[1].repeat(2), QuantSpec(8, "per_channel", False), "percentile"
    )
    assert channels[0].shape == (2,)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_find_range_of_zeros_has_scale_one(method):
    zeros = torch.zeros(2, 10)
    scale, zero_point = find_range(zeros, zeros[:, 0], zeros[:, 0], QuantSpec(8, "per_tensor", False), method)
    assert (scale.item(), zero_point.item()) == (1, 0)
