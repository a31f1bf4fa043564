"""Properties of fake quantization that hold for every range, number of bits and tensor."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mqb_monai.quantization import QuantSpec
from mqb_monai.quantization.affine import fake_quantize, range_qparams

finite = st.floats(-1e4, 1e4, width=32)
tensors = st.lists(finite, min_size=1, max_size=40).map(torch.tensor)
ranges = st.tuples(finite, finite).map(sorted).filter(lambda ends: ends[1] - ends[0] > 1e-3)
specs = st.builds(QuantSpec, st.integers(2, 8), st.just("per_tensor"), st.booleans())
quick = settings(deadline=None, max_examples=100)


def rounded(x: torch.Tensor, ends, spec: QuantSpec):
    """``x`` on the grid of the range ``ends``, and that grid's scale and ends."""
    scale, zero_point = range_qparams(torch.tensor(ends[0]), torch.tensor(ends[1]), spec)
    low, high = (spec.qmin - zero_point) * scale, (spec.qmax - zero_point) * scale
    return fake_quantize(x, scale, zero_point, spec.qmin, spec.qmax), scale, low, high


@quick
@given(tensors, ranges, specs)
def test_fake_quantize_is_idempotent(x, ends, spec):
    once, *_ = rounded(x, ends, spec)
    assert torch.equal(rounded(once, ends, spec)[0], once)


@quick
@given(tensors, ranges, specs)
def test_fake_quantize_is_monotone(x, ends, spec):
    out, *_ = rounded(x.sort().values, ends, spec)
    assert (out.diff() >= 0).all()


@quick
@given(tensors, ranges, specs)
def test_fake_quantize_is_off_by_half_a_step_within_the_range(x, ends, spec):
    out, scale, low, high = rounded(x, ends, spec)
    inside = (x >= low) & (x <= high)
    tolerance = 1e-6 * x.abs() + 1e-6 * scale * 2**spec.num_bits  # of float32
    assert ((out - x).abs() <= scale / 2 + tolerance)[inside].all()
    assert torch.equal(out[x <= low], low.expand(len(x))[x <= low])
    assert torch.equal(out[x >= high], high.expand(len(x))[x >= high])


@quick
@given(tensors, ranges, specs)
def test_fake_quantize_keeps_zero(x, ends, spec):
    out, *_ = rounded(torch.zeros(1), ends, spec)
    assert out.item() == 0
