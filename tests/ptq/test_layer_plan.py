from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from mqb_monai.ptq.layer_plan import LayerSetting, make_plan, output_error, rounded_rows
from mqb_monai.ptq.parts import Part
from mqb_monai.ptq.samples import sample_inputs
from mqb_monai.quantization import LayerSpec, QuantSpec
from mqb_monai.quantization.layer_weight import quantize_weight
from mqb_monai.quantization.modules import quantize_layer

LAYERS = {
    "conv": nn.Conv3d(4, 6, 3, padding=1),
    "grouped": nn.Conv3d(4, 6, 3, padding=1, groups=2),
    "up": nn.ConvTranspose3d(4, 6, 2, stride=2),
    "grouped up": nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2),
    "pointwise": nn.Conv3d(4, 6, 1),
}
SPEC = LayerSpec(QuantSpec(4, "per_tensor"), QuantSpec(4, "per_channel"))
SIZES = torch.tensor([1.0, 5.0, 20.0, 100.0]).view(1, -1, 1, 1, 1)


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)
    for layer in LAYERS.values():
        layer.reset_parameters()


@pytest.fixture
def x():
    return torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0)) * SIZES


def sample_of(layer, x):
    return sample_inputs(layer, [""], [Part(x)], foreground=False)[""]


def quantized(layer, plan) -> nn.Module:
    return quantize_layer(copy.deepcopy(layer), plan.spec, plan.input_qparams, plan.weight, plan.input_prescale)


def channels(y: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """``(1, C, H, W, D)`` as ``(C, N)``; each tap of a transposed kernel by itself."""
    if not isinstance(layer, nn.ConvTranspose3d):
        return y[0].flatten(1)
    taps = y[0].unfold(1, 2, 2).unfold(2, 2, 2).unfold(3, 2, 2)  # (C, h, w, d, 2, 2, 2)
    return taps.flatten(4).movedim(4, 1).flatten(0, 1).flatten(1)


@pytest.mark.parametrize("name", LAYERS)
def test_make_plan_by_default_is_min_max(name, x):
    """Oracle: ``quantize_weight``, and the greatest magnitude over 7."""
    layer = LAYERS[name]
    plan = make_plan(layer, SPEC, LayerSetting(symmetric=True), sample_of(layer, x))
    expected = quantize_weight(layer, SPEC.weight)
    # x * (1 / scale) and x / scale differ at ties only.
    assert (plan.weight.integers != expected.integers).float().mean() < 0.01
    assert torch.equal(plan.weight.scale, expected.scale)
    assert plan.input_qparams[0].item() == pytest.approx(x.abs().max().item() / 7)
    assert plan.input_prescale is None and plan.bias is None


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("setting", [{"strength": 0.5}, {"rounding": "gptq"}, {"range": "mse", "symmetric": False}])
def test_output_error_is_that_of_the_quantized_layer(name, setting, x):
    """Oracle: the quantized layer run on the same data, every position of it."""
    layer = LAYERS[name]
    sample = sample_of(layer, x)
    plan = make_plan(layer, SPEC, LayerSetting(**{"symmetric": True} | setting), sample)
    with torch.no_grad():
        wanted, found = channels(layer(x), layer), channels(quantized(layer, plan)(x), layer)
    expected = ((found - wanted).square().mean(1) / wanted.var(1)).mean().item()
    assert output_error(layer, plan, sample) == pytest.approx(expected, rel=0.25)  # positions are drawn


@pytest.mark.parametrize("name", LAYERS)
def test_equalizing_lowers_the_error_and_gptq_keeps_it_low(name, x):
    layer = LAYERS[name]
    sample, plain = sample_of(layer, x), LayerSetting(symmetric=True, range="mse")
    settings = plain, replace(plain, strength=0.5), replace(plain, strength=0.5, rounding="gptq")
    errors = [output_error(layer, make_plan(layer, SPEC, setting, sample), sample) for setting in settings]
    assert errors[1] < errors[0] and errors[2] < errors[1] * 1.1, errors


def test_make_plan_is_the_same_for_the_same_arguments(x):
    layer = LAYERS["conv"]
    sample, setting = sample_of(layer, x), LayerSetting(True, range="mse", strength=0.5, rounding="gptq")
    first, second = (make_plan(layer, SPEC, setting, sample) for _ in range(2))
    assert torch.equal(first.weight.integers, second.weight.integers)
    assert torch.equal(first.input_prescale, second.input_prescale)


def test_make_plan_takes_symmetry_and_terms_from_the_setting(x):
    layer = LAYERS["conv"]
    plan = make_plan(layer, SPEC, LayerSetting(symmetric=False, terms=2), sample_of(layer, x))
    assert plan.spec.precision == "w4a8" and not plan.spec.input.symmetric
    assert plan.input_qparams[0].item() == pytest.approx((x.max() - x.min()).item() / 255)


def test_two_terms_are_two_integers_of_four_bits(x):
    """``q = 16 q1 + q0``: of an asymmetric input both from 0 to 15, of a symmetric one q1 from -8 to 7."""
    layer = LAYERS["conv"]
    for symmetric, least in ((False, 0), (True, -8)):
        plan = make_plan(layer, SPEC, LayerSetting(symmetric=symmetric, terms=2), sample_of(layer, x))
        scale, zero_point = plan.input_qparams
        q = quantized(layer, plan).fake_quantize_input(x) / scale + zero_point
        torch.testing.assert_close(q, q.round(), rtol=0, atol=1e-3)
        high, low = torch.div(q.round(), 16, rounding_mode="floor"), q.round() % 16
        assert torch.equal(16 * high + low, q.round())
        assert high.min() >= least and high.max() <= least + 15 and low.min() >= 0 and low.max() <= 15


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "per_voxel"])
def test_rounded_rows_are_what_the_quantized_layer_sees(granularity, x):
    """Oracle: the rows of the quantized layer's own input."""
    layer = LAYERS["pointwise"]
    spec = replace(SPEC, input=QuantSpec(4, granularity))
    sample = sample_of(layer, x)
    plan = make_plan(layer, spec, LayerSetting(symmetric=True, strength=0.5), sample)
    every = x.movedim(1, -1).reshape(1, -1, 4)
    expected = quantized(layer, plan).fake_quantize_input(x).movedim(1, -1).reshape(1, -1, 4)
    torch.testing.assert_close(rounded_rows(layer, plan, every), expected)


def test_output_error_of_a_plan_without_a_weight_rounds_it_to_nearest(x):
    layer = LAYERS["conv"]
    sample = sample_of(layer, x)
    plan = make_plan(layer, SPEC, LayerSetting(symmetric=True), sample)
    expected = output_error(layer, plan, sample)
    assert output_error(layer, replace(plan, weight=None), sample) == pytest.approx(expected, rel=1e-2)


def test_make_plan_of_many_columns_is_no_worse_than_rounding_to_nearest(x, monkeypatch):
    monkeypatch.setattr("mqb_monai.ptq.layer_plan.MAX_COLUMNS", 54)  # of 108
    layer = LAYERS["conv"]
    sample = sample_of(layer, x)
    plans = [make_plan(layer, SPEC, LayerSetting(True, rounding=name), sample) for name in ("nearest", "gptq")]
    assert output_error(layer, plans[1], sample) <= output_error(layer, plans[0], sample)
