from __future__ import annotations

import pytest
import torch

from mqb_monai.quantization import QuantSpec
from mqb_monai.quantization.affine import (
    asymmetric_qparams,
    dequantize_affine,
    fake_quantize,
    fake_quantize_per_token,
    fake_quantize_per_voxel,
    quantize_affine,
    range_qparams,
    symmetric_qparams,
)

SYMMETRIC, ASYMMETRIC = QuantSpec(4, "per_tensor"), QuantSpec(4, "per_tensor", symmetric=False)


def assert_same_but_at_ties(ours, oracle, x, scale):
    """Equal to 1e-6, leaving out elements within 1e-5 of a step of a tie, which may be at most 1 in 1000."""
    steps = (x / scale).double()
    tie = ((steps - steps.floor()) - 0.5).abs() < 1e-5
    assert tie.sum() <= x.numel() / 1000
    torch.testing.assert_close(ours[~tie], oracle[~tie], rtol=1e-6, atol=1e-6)


def test_symmetric_qparams_by_hand():
    scale, zero_point = symmetric_qparams(torch.tensor([14.0, 0.7, 0.0]), SYMMETRIC)
    torch.testing.assert_close(scale, torch.tensor([2.0, 0.1, 1.0]))  # max / 7; all-zero: 1
    assert zero_point.tolist() == [0, 0, 0]
    assert zero_point.dtype == torch.int32


def test_asymmetric_qparams_by_hand():
    low = torch.tensor([-5.0, 3.0, -30.0, 0.0])
    high = torch.tensor([10.0, 30.0, -15.0, 0.0])
    scale, zero_point = asymmetric_qparams(low, high, ASYMMETRIC)
    # Ranges that hold 0: [-5, 10] / 15 = 1, z 5; [0, 30]: 2, z 0; [-30, 0]: 2, z 15; nothing: 1, z 0
    assert scale.tolist() == [1.0, 2.0, 2.0, 1.0]
    assert zero_point.tolist() == [5, 0, 15, 0]


@pytest.mark.parametrize("spec", [SYMMETRIC, ASYMMETRIC])
def test_qparams_are_usable_at_the_ends_of_float32(spec):
    for magnitude in (1e-45, 1e-38, 1e-30, 1e30):
        x = torch.tensor([-magnitude, 0.0, magnitude])
        scale, zero_point = range_qparams(x.min(), x.max(), spec)
        out = fake_quantize(x, scale, zero_point, spec.qmin, spec.qmax)
        assert torch.isfinite(out).all() and out[1] == 0, magnitude
        assert (out - x).abs().max() <= max(scale.item() / 2 * 1.01, 1e-37), magnitude


def test_quantize_affine_by_hand():
    x = torch.tensor([-9.0, -1.0, 0.5, 1.5, 2.5, 9.0])
    one, zero, five = torch.tensor(1.0), torch.tensor(0), torch.tensor(5)
    assert quantize_affine(x, one, zero, -8, 7).tolist() == [-8, -1, 0, 2, 2, 7]  # ties to even, clamped
    assert quantize_affine(x, one, five, 0, 15).tolist() == [0, 4, 5, 7, 7, 14]
    assert dequantize_affine(torch.tensor([0, 4, 14]), torch.tensor(2.0), five).tolist() == [-10.0, -2.0, 18.0]


def test_quantize_affine_per_channel_by_hand():
    x = torch.tensor([[[3.0], [3.0]], [[-3.0], [5.0]]])
    scale, zero_point = torch.tensor([1.0, 2.0]), torch.tensor([0, 1])
    q = quantize_affine(x, scale, zero_point, -8, 7, axis=1)
    assert q.flatten().tolist() == [3, 3, -3, 3]  # 3 / 2 = 1.5 -> 2, + 1; 5 / 2 = 2.5 -> 2, + 1
    assert dequantize_affine(q, scale, zero_point, axis=1).flatten().tolist() == [3.0, 4.0, -3.0, 4.0]


@pytest.mark.parametrize("spec", [SYMMETRIC, ASYMMETRIC])
def test_fake_quantize_is_quantize_then_dequantize(spec, x):
    for axis in (None, 0, 1, 2, -1):
        others = [i for i in range(5) if axis is None or i != axis % 5]
        scale, zero_point = range_qparams(x.amin(others), x.amax(others), spec)
        out = fake_quantize(x, scale, zero_point, spec.qmin, spec.qmax, axis if axis is None else axis % 5)
        q = quantize_affine(x, scale, zero_point, spec.qmin, spec.qmax, axis)
        assert torch.equal(out, dequantize_affine(q, scale, zero_point, axis)), axis


@pytest.mark.parametrize("num_bits", [8, 4])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "per_token", "per_voxel"])
def test_fake_quantize_against_modelopt(granularity, num_bits, x, modelopt_fake_quantize):
    spec = QuantSpec(num_bits, granularity)
    dims = {"per_tensor": (0, 1, 2, 3, 4), "per_channel": (0, 2, 3, 4), "per_token": 4, "per_voxel": 1}[granularity]
    max_abs = x.abs().amax(dims, keepdim=True)
    if granularity == "per_token":
        ours = fake_quantize_per_token(x, spec)
    elif granularity == "per_voxel":
        ours = fake_quantize_per_voxel(x, spec)
    else:
        axis = 1 if granularity == "per_channel" else None
        scale, zero_point = symmetric_qparams(max_abs.flatten() if axis else max_abs.squeeze(), spec)
        ours = fake_quantize(x, scale, zero_point, spec.qmin, spec.qmax, axis)
    assert_same_but_at_ties(ours, modelopt_fake_quantize(x, max_abs, num_bits), x, max_abs / spec.qmax)


def test_per_token_by_hand():
    x = torch.tensor([[[7.0, 3.4, -7.0], [0.0, 0.0, 0.0]], [[14.0, 3.4, 1.0], [0.7, 0.05, -0.14]]])
    expected = [[[7, 3, -7], [0, 0, 0]], [[14, 4, 0], [0.7, 0.0, -0.1]]]  # scales 1, 1, 2, 0.1
    out = fake_quantize_per_token(x, QuantSpec(4, "per_token"))
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float32))


def test_per_voxel_by_hand():
    x = torch.tensor([[7.0, 14.0], [3.4, 3.4]])[None, :, :, None, None]  # (1, 2 channels, 2 voxels, 1, 1)
    out = fake_quantize_per_voxel(x, QuantSpec(4, "per_voxel"))
    torch.testing.assert_close(out.flatten(), torch.tensor([7.0, 14.0, 3.0, 4.0]))


def test_dynamic_asymmetric_by_hand():
    x = torch.tensor([[-5.0, 10.0, 0.4], [0.0, 30.0, 4.9]])  # scales 1 (z 5) and 2 (z 0)
    out = fake_quantize_per_token(x, QuantSpec(4, "per_token", symmetric=False))
    assert out.tolist() == [[-5.0, 10.0, 0.0], [0.0, 30.0, 4.0]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("fake_quantize_dynamic", [fake_quantize_per_token, fake_quantize_per_voxel])
def test_dynamic_gradient_passes_straight_through(fake_quantize_dynamic, symmetric, x):
    spec = QuantSpec(8, "per_token", symmetric)
    leaf = x.clone().requires_grad_()
    out = fake_quantize_dynamic(leaf, spec)
    out.sum().backward()
    assert torch.equal(out.detach(), fake_quantize_dynamic(x, spec))
    assert leaf.grad.mean() > 0.95  # 1 within the range; the greatest of a row may fall outside by a rounding


def test_other_dtypes_are_computed_in_float32(x):
    spec = QuantSpec(8, "per_token")
    scale, zero_point = symmetric_qparams(x.abs().max(), spec)
    for function in (
        lambda t: fake_quantize(t, scale, zero_point, -128, 127),
        lambda t: fake_quantize_per_token(t, spec),
        lambda t: fake_quantize_per_voxel(t, spec),
    ):
        for low in map(x.to, (torch.float16, torch.bfloat16, torch.float64)):
            out = function(low)
            assert out.dtype == low.dtype
            assert torch.equal(out, function(low.float()).to(low.dtype)), low.dtype


def test_layouts_give_the_same_numbers(x):
    spec = QuantSpec(8, "per_voxel")
    last = x.contiguous(memory_format=torch.channels_last_3d)
    out = fake_quantize_per_voxel(last, spec)
    assert torch.equal(out, fake_quantize_per_voxel(x, spec))
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(fake_quantize_per_token(x.mT, spec), fake_quantize_per_token(x.mT.contiguous(), spec))


def test_empty_tensors_come_back():
    empty, spec = torch.zeros(0, 3, 2, 2, 2), QuantSpec(8, "per_token")
    one, zero = torch.tensor(1.0), torch.tensor(0, dtype=torch.int32)
    for out in (
        fake_quantize(empty, one, zero, -128, 127),
        fake_quantize_per_token(empty, spec),
        fake_quantize_per_voxel(empty, spec),
    ):
        assert out.shape == empty.shape
