from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mqb_monai.quantization import LayerSpec, QuantSpec, export_mode
from mqb_monai.quantization.affine import fake_quantize, fake_quantize_per_token, fake_quantize_per_voxel, range_qparams
from mqb_monai.quantization.layer_weight import merge_groups, quantize_weight, scale_input_channels, split_groups
from mqb_monai.quantization.modules import layer_kind, quantize_layer

W8, W8_TENSOR, W8_ASYMMETRIC = (
    QuantSpec(8, "per_channel"),
    QuantSpec(8, "per_tensor"),
    QuantSpec(8, "per_channel", symmetric=False),
)
LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, groups=2, padding=1), (2, 4, 7)),
    "conv2d": (nn.Conv2d(4, 6, (1, 3), stride=2, bias=False), (2, 4, 7, 6)),
    "conv3d": (nn.Conv3d(4, 6, 3, padding="same", dilation=2, padding_mode="circular"), (2, 4, 5, 6, 7)),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, groups=2), (2, 4, 5)),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False), (2, 4, 5, 4)),
    "conv_transpose3d": (nn.ConvTranspose3d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 3, 4, 5)),
    "linear": (nn.Linear(4, 6), (2, 3, 5, 4)),
}


def quantized_on(layer, spec, x):
    """The quantized layer, its input's qparams from ``x`` itself."""
    axis = x.dim() - 1 if isinstance(layer, nn.Linear) else 1
    qparams = None
    if not spec.input.dynamic:
        others = [i for i in range(x.dim()) if spec.input.granularity == "per_tensor" or i != axis]
        qparams = range_qparams(x.amin(others), x.amax(others), spec.input)
    return quantize_layer(copy.deepcopy(layer), spec, qparams)


@pytest.mark.parametrize("name", list(LAYERS))
def test_layer_is_the_float_layer_on_quantized_tensors(name):
    """Oracle: the float layer itself, given the fake-quantized input and weight; with the weight in the graph too."""
    for weight in (W8, W8_TENSOR, W8_ASYMMETRIC):
        _check_layer(*LAYERS[name], weight)


def _check_layer(layer, shape, weight):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    spec = LayerSpec(input=QuantSpec(8, "per_tensor"), weight=weight)
    quantized = quantized_on(layer, spec, x)
    oracle = copy.deepcopy(layer)
    oracle.weight.data.copy_(quantized.dequantize_weight(quantize_weight(layer, weight).integers))
    x_hat = fake_quantize(x, quantized.input_scale, quantized.input_zero_point, -128, 127)
    with torch.no_grad():
        assert torch.equal(quantized(x), oracle(x_hat))
        with export_mode(quantized):
            assert quantized.weight_in_graph
            assert torch.equal(quantized.graph_weight(), quantized.weight)
            assert torch.equal(quantized(x), oracle(x_hat))
        assert not quantized.weight_in_graph
        assert (oracle.weight - layer.weight).abs().max() <= quantized.weight_scale.max() / 2 * 1.001
    assert isinstance(quantized, type(layer))


@pytest.mark.parametrize("num_bits", [8, 4])
def test_integer_weight_is_exact(num_bits):
    spec = LayerSpec(QuantSpec(8, "per_tensor"), QuantSpec(num_bits, "per_channel"))
    for name, (layer, shape) in LAYERS.items():
        quantized = quantized_on(layer, spec, torch.ones(shape))
        integers = quantized.integer_weight
        assert integers.dtype == torch.int8, name
        assert torch.equal(integers.int(), quantize_weight(layer, spec.weight).integers), name
        assert integers.abs().max() == 2 ** (num_bits - 1) - 1, name
        quantized.half()
        assert torch.equal(quantized.integer_weight, integers), name


def test_transposed_groups_have_a_scale_for_each_output_channel():
    """By hand: the weight of output channel c is c + 1 everywhere, so its scale is (c + 1) / 127."""
    layer = nn.ConvTranspose3d(4, 6, 2, groups=2)  # weight (4, 3, 2, 2, 2); channels 0..2 from inputs 0, 1
    layer.weight.data[:2] = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1, 1)
    layer.weight.data[2:] = torch.tensor([4.0, 5.0, 6.0]).view(1, 3, 1, 1, 1)
    integers, scale, _ = quantize_weight(layer, W8)
    torch.testing.assert_close(scale, torch.arange(1.0, 7.0) / 127)
    assert (integers == 127).all()
    merged = merge_groups(layer.weight, layer)
    assert merged.shape == (2, 6, 2, 2, 2)
    assert torch.equal(split_groups(merged, layer), layer.weight)


@pytest.mark.parametrize("name", ["conv3d", "conv_transpose3d", "conv2d"])
def test_conv_input_per_channel_and_per_voxel(name):
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 100, 0.1]).view(
        1, 4, *[1] * (len(shape) - 2)
    )
    per_channel = quantized_on(layer, LayerSpec(QuantSpec(8, "per_channel"), W8), x)
    assert per_channel.input_scale.shape == (4,)
    expected = fake_quantize(x, per_channel.input_scale, per_channel.input_zero_point, -128, 127, axis=1)
    assert torch.equal(per_channel.fake_quantize_input(x), expected)
    assert torch.equal(per_channel.fake_quantize_input(x[0]), expected[0])  # without a batch axis
    per_voxel = quantized_on(layer, LayerSpec(QuantSpec(8, "per_voxel"), W8), x)
    assert torch.equal(per_voxel.fake_quantize_input(x), fake_quantize_per_voxel(x, QuantSpec(8, "per_voxel")))
    assert "input_scale" not in per_voxel.state_dict()


def test_linear_per_token_whatever_the_leading_axes():
    spec = QuantSpec(4, "per_token")
    for shape in ((2, 4), (2, 3, 4), (2, 3, 5, 4), (1, 2, 2, 2, 4)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        quantized = quantized_on(LAYERS["linear"][0], LayerSpec(spec, W8), x)
        rows = fake_quantize_per_token(x.reshape(-1, 4), spec)
        assert torch.equal(quantized.fake_quantize_input(x), rows.view(shape)), shape
        assert quantized(x).shape == (*shape[:-1], 6)


def test_engine_layer_folds_its_zero_point_into_the_bias():
    """By hand, in integers: y = s_x s_w (W q - W z) + b for asymmetric activations."""
    layer = LAYERS["linear"][0]
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) * 2 - 0.3
    quantized = quantized_on(
        layer, LayerSpec(QuantSpec(4, "per_tensor", symmetric=False), QuantSpec(4, "per_channel")), x
    )
    scale, zero_point = quantized.input_scale, quantized.input_zero_point
    assert 0 < zero_point < 15
    q = torch.clamp(torch.round(x / scale) + zero_point, 0, 15)
    weight = quantized.integer_weight.float()
    bias = layer.bias - (weight.sum(1) * zero_point) * scale * quantized.weight_scale
    by_hand = (q @ weight.T) * scale * quantized.weight_scale + bias
    torch.testing.assert_close(quantized(x), by_hand, rtol=1e-5, atol=1e-5)


def test_transposed_output_size_is_honoured():
    layer = nn.ConvTranspose3d(4, 6, 3, stride=2)
    x = torch.randn(1, 4, 3, 3, 3)
    quantized = quantized_on(layer, LayerSpec(QuantSpec(8, "per_tensor"), W8), x)
    assert quantized(x, output_size=[8, 8, 7]).shape == layer(x, output_size=[8, 8, 7]).shape == (1, 6, 8, 8, 7)


def test_hooks_mode_and_attributes_come_along():
    layer = nn.Linear(4, 6).eval()
    layer.note, seen = "mine", []
    layer.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    quantized = quantize_layer(layer, LayerSpec(QuantSpec(8, "per_token"), W8))
    quantized(torch.ones(1, 4))
    assert (seen, quantized.note, quantized.training) == (["QuantizedLinear"], "mine", False)
    assert "bits per_token" in repr(quantized)


@pytest.mark.parametrize("name", list(LAYERS))
def test_prescaled_layer_is_the_layer_on_a_scaled_input(name):
    """Oracle: the input multiplied and the weight divided by hand, then the layer without prescale."""
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    prescale = torch.tensor([0.5, 3.0, 1.0, 10.0])
    along = prescale if isinstance(layer, nn.Linear) else prescale.view(-1, *[1] * (len(shape) - 2))
    divided = copy.deepcopy(layer)
    divided.weight.data = scale_input_channels(layer.weight.data, layer, 1 / prescale)
    granularities = ("per_tensor", "per_channel", "per_token" if isinstance(layer, nn.Linear) else "per_voxel")
    for granularity in granularities:
        expected = quantized_on(divided, LayerSpec(QuantSpec(8, granularity), W8), x * along)
        qparams = None if expected.spec.input.dynamic else (expected.input_scale, expected.input_zero_point)
        quantized = quantize_layer(copy.deepcopy(layer), expected.spec, qparams, input_prescale=prescale)
        assert torch.equal(quantized(x), expected(x * along)), granularity
        assert torch.equal(quantized.round_input(x), expected.fake_quantize_input(x * along) / along), granularity
        assert torch.equal(quantized.fake_quantize_input(x[0]), quantized.fake_quantize_input(x)[0]), granularity
        with export_mode(quantized):
            assert torch.equal(quantized(x), expected(x * along)), granularity


def test_round_input_without_a_prescale_is_fake_quantize_input():
    x = torch.randn(3, 4)
    quantized = quantized_on(LAYERS["linear"][0], LayerSpec(QuantSpec(8, "per_tensor"), W8), x)
    assert torch.equal(quantized.round_input(x), quantized.fake_quantize_input(x))
    assert (quantized.round_input(x) - x).abs().max() <= quantized.input_scale / 2 * 1.001


def test_prescale_stays_float32_and_must_fit_the_layer():
    layer, spec = LAYERS["linear"][0], LayerSpec(QuantSpec(8, "per_token"), W8)
    quantized = quantize_layer(copy.deepcopy(layer), spec, input_prescale=torch.full((4,), 0.1)).half()
    assert quantized.input_prescale.dtype == torch.float32
    assert quantized(torch.ones(2, 4, dtype=torch.float16)).dtype == torch.float16
    assert "input_prescale" in quantized.state_dict()
    assert "input_prescale" not in quantize_layer(copy.deepcopy(layer), spec).state_dict()
    with pytest.raises(ValueError, match=r"input_prescale must be \(4,\), got \(6,\)"):
        quantize_layer(copy.deepcopy(layer), spec, input_prescale=torch.ones(6))


@pytest.mark.parametrize("symmetric", [True, False])
def test_two_terms_round_as_one_of_twice_the_bits(symmetric):
    """Oracle: the 8-bit input itself; and each integer is two 4-bit terms, ``q = 16 q1 + q0``, by hand."""
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    two, one = (QuantSpec(bits, "per_tensor", symmetric, terms=8 // bits) for bits in (4, 8))
    quantized, expected = (quantized_on(LAYERS["linear"][0], LayerSpec(spec, W8), x) for spec in (two, one))
    assert torch.equal(quantized(x), expected(x))
    q = torch.round(quantized.fake_quantize_input(x) / quantized.input_scale).int() + quantized.input_zero_point
    high, low = q >> 4, q & 15
    assert (high.min() >= (-8 if symmetric else 0)) and (high.max() <= (7 if symmetric else 15))
    assert torch.equal(16 * high + low, q)


def test_qparams_must_fit_the_spec():
    with pytest.raises(ValueError, match="must be given"):
        quantize_layer(nn.Linear(2, 2), LayerSpec(QuantSpec(8, "per_tensor"), W8))


def test_scales_stay_float32():
    layer = quantized_on(LAYERS["linear"][0], LayerSpec(QuantSpec(8, "per_tensor"), W8), torch.randn(2, 4))
    scale = layer.input_scale.clone()
    layer.half()
    assert (layer.weight.dtype, layer.input_scale.dtype) == (torch.float16, torch.float32)
    assert torch.equal(layer.input_scale, scale)


def test_layer_kind():
    assert layer_kind(nn.Conv3d(2, 2, 1, stride=2)) == layer_kind(nn.Conv2d(2, 2, 1)) == "pointwise"
    assert layer_kind(nn.Conv3d(2, 2, (1, 1, 3))) == layer_kind(nn.ConvTranspose3d(2, 2, 1)) == "conv"
    assert layer_kind(nn.Linear(2, 2)) == "linear"
