from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization import (
    SCHEMES,
    LayerPlan,
    LayerSpec,
    NotCalibratedWarning,
    OutsideLayerWarning,
    QuantizedLayer,
    QuantSpec,
    Scheme,
    build_quantized,
    plans_of,
    quantize,
    quantized_layers,
    weights_sha256,
)
from mqb_monai.quantization.affine import fake_quantize_per_voxel, range_qparams
from mqb_monai.quantization.layer_weight import QuantizedWeight, quantize_weight, scale_input_channels


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_quantize_every_scheme_is_near_the_float_network(network, x, quantized, scheme):
    qnet = quantized(scheme)
    with torch.no_grad():
        error = (qnet(x) - network(x)).square().mean().sqrt() / network(x).std()
    assert 0 < error < (0.05 if scheme.startswith("w8") else 0.6)
    assert list(quantized_layers(qnet)) == ["conv", "up", "pointwise", "linear"]


def test_quantize_leaves_the_network_untouched(network, x):
    network.train()
    network.norm.eval()
    calls = []
    network.conv.register_forward_hook(lambda *_: calls.append(1))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    types = [type(module) for module in network.modules()]
    qnet = quantize(network, "w4a4_per_tensor", [x], exclude="unused")
    assert [type(module) for module in network.modules()] == types
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert (network.training, network.norm.training, qnet.training, qnet.norm.training) == (True, False, True, False)
    assert calls == [1, 1]  # calibration, and the proof
    assert len(qnet.conv._forward_hooks) == len(network.conv._forward_hooks) == 1
    ours = {tensor.untyped_storage().data_ptr() for tensor in qnet.state_dict().values()}
    assert ours.isdisjoint(tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values())


def test_quantize_names_layers_without_data_in_one_warning(nnunet):
    with pytest.warns(NotCalibratedWarning, match=r"stay float: decoder\.seg_layers\.0$") as warned:
        qnet = quantize(nnunet, "w8a8_per_tensor", [torch.randn(1, 1, 8, 16, 16)])
    assert len(warned) == 1
    assert qnet.quantization_record.reasons == {"decoder.seg_layers.0": "no calibration data reached it"}
    assert type(qnet.decoder.seg_layers[0]) is nn.Conv3d


def test_quantize_replaces_every_active_conv_of_a_nnunet(nnunet):
    x = torch.randn(1, 1, 8, 16, 16)
    with pytest.warns(NotCalibratedWarning):
        qnet = quantize(nnunet, "w8a8_per_channel", [x])
    ran = []
    for module in qnet.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            module.register_forward_hook(lambda module, *_: ran.append(module))
    qnet(x)
    assert len(ran) == 8  # 3 in the encoder, 2 transposed and 2 more in the decoder, one head
    assert all(isinstance(module, QuantizedLayer) for module in ran)


def test_adaptive_takes_a_scale_a_voxel_for_pointwise_convs_only(quantized, network, x):
    qnet = quantized("w8a8_adaptive")
    granularities = {name: layer.spec.input.granularity for name, layer in quantized_layers(qnet).items()}
    assert granularities == {
        "conv": "per_channel",
        "up": "per_channel",
        "pointwise": "per_voxel",
        "linear": "per_token",
    }
    h = torch.randn(1, 6, 3, 3, 3)
    expected = nn.functional.conv3d(
        fake_quantize_per_voxel(h, QuantSpec(8, "per_voxel")), qnet.pointwise.weight, network.pointwise.bias
    )
    assert torch.equal(qnet.pointwise(h), expected)


def test_quantize_a_2d_network():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2), nn.Conv2d(2, 2, 1)).eval()
    x = torch.randn(2, 1, 8, 8)
    for scheme in ("w8a8_adaptive", "w8a8_engine"):
        qnet = quantize(network, scheme, [x])
        assert len(quantized_layers(qnet)) == 3
        torch.testing.assert_close(qnet(x), network(x), rtol=0, atol=0.05)


def test_quantize_a_network_that_is_one_layer():
    linear, x = nn.Linear(3, 2), torch.randn(5, 3)
    qnet = quantize(linear, "w8a8_per_tensor", [x])
    assert type(qnet).__name__ == "QuantizedLinear"
    assert type(linear) is nn.Linear
    assert list(qnet.quantization_record.layers) == [""]
    torch.testing.assert_close(qnet(x), linear(x), rtol=0, atol=0.05)


def test_quantize_include_and_exclude_are_the_placement(network, x):
    qnet = quantize(network, "w8a8_engine", [x], include=["conv", "up", "linear"], exclude=["lin*"])
    assert list(quantized_layers(qnet)) == ["conv", "up"]
    assert qnet.quantization_record.reasons == {
        "pointwise": "not in include",
        "linear": "excluded by lin*",
        "unused": "not in include",
    }


def test_quantize_engine_uses_asymmetric_activations_by_hand(network, x, quantized):
    qnet = quantized("w4a4_engine")
    low, high = x.min().item(), x.max().item()
    scale = (high - low) / 15
    assert qnet.conv.input_scale.item() == pytest.approx(scale, rel=1e-6)
    assert qnet.conv.input_zero_point.item() == round(-low / scale)
    assert qnet.up.input_zero_point.item() == 0  # after a ReLU
    assert qnet.conv.weight_scale.shape == (4,)
    assert qnet.conv.weight_zero_point.tolist() == [0, 0, 0, 0]


def test_layers_that_share_a_weight_go_on_sharing_it():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
    network[1].weight = network[0].weight
    qnet = quantize(network, "w8a8_per_channel", [torch.randn(2, 3)])
    assert qnet[0].weight is qnet[1].weight
    assert qnet[0].bias is not qnet[1].bias


def test_quantize_twice_is_refused(network, x, quantized):
    with pytest.raises(InputError, match="quantized already"):
        quantize(quantized(), "w8a8_per_tensor", [x], include="conv")


def test_quantize_refuses_what_cannot_be_quantized(x):
    with pytest.raises(InputError, match="no quantizable layer"):
        quantize(nn.ReLU(), "w8a8_per_tensor", [x])


def test_quantize_takes_a_scheme_of_ones_own(network, x):
    spec = QuantSpec(3, "per_tensor", observer="mse")
    scheme = Scheme("w3a3_mse", spec, spec, spec, spec, spec)
    qnet = quantize(network, scheme, [x], exclude="unused")
    assert qnet.quantization_record.scheme == "w3a3_mse"
    assert qnet.conv.integer_weight.unique().numel() <= 8


def test_record_is_complete_and_plain(network, quantized):
    record = quantized("w8a8_adaptive").quantization_record
    plain = record.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["scheme"] == "w8a8_adaptive"
    assert plain["weights_sha256"] == weights_sha256(network.state_dict())
    assert set(plain["versions"]) == {"mqb_monai", "torch", "python"}
    conv, linear = plain["layers"]["conv"], plain["layers"]["linear"]
    assert (conv["type"], conv["names"], conv["input"]["granularity"]) == ("Conv3d", ["conv"], "per_channel")
    assert 0 < conv["input"]["scale"][0] < conv["input"]["scale"][1]
    assert conv["weight"]["zero_point"] == [0, 0]
    assert (linear["input"]["scale"], linear["input"]["num_bits"]) == (None, 8)
    assert plain["reasons"] == {"unused": "no calibration data reached it"}
    layers = ("conv", "up", "pointwise", "linear", "unused")
    assert plain["precision"] == dict.fromkeys(layers, "w8a8") | {"unused": "float"}


def test_record_states_the_share_of_multiply_adds(network, x):
    """By hand: x is (2, 3, 6, 5, 4)."""
    coverage = quantize(network, "w8a8_engine", [x], include="conv,up").quantization_record.coverage
    voxels = 2 * 6 * 5 * 4
    quantized, left = voxels * (4 * 3 * 27 + 4 * 3 * 8), 8 * voxels * (4 * 6 + 5 * 4)
    assert coverage["quantized_share"] == quantized / (quantized + left)
    assert coverage["multiply_adds"] == {
        "quantized_layers": quantized,
        "float_layers": left,
        "quantized_attention": 0,
        "float_attention": 0,
        "outside": 0,
    }


def test_quantize_names_what_is_no_layers():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(4, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.kernel = nn.Parameter(torch.randn(2, 8, 3))

        def forward(self, x):
            x = self.embed(x)
            x = self.attention(x, x, x)[0]
            return nn.functional.conv1d(x.transpose(1, 2), self.kernel)

    network, x = Network().eval(), torch.randn(1, 5, 4)
    with (
        pytest.warns(NotCalibratedWarning, match=r"attention\.out_proj$"),
        pytest.warns(
            OutsideLayerWarning,
            match=r"linear in attention \(attention\.in_proj_weight\), linear in attention "
            r"\(attention\.out_proj\.weight\), convolution in the network itself \(kernel\)$",
        ),
    ):
        qnet = quantize(network, "w8a8_engine", [x])
    coverage = qnet.quantization_record.coverage
    assert coverage["outside"] == [  # by hand
        {"kind": "linear", "module": "attention", "weights": ["attention.in_proj_weight"], "multiply_adds": 5 * 8 * 24},
        {"kind": "linear", "module": "attention", "weights": ["attention.out_proj.weight"], "multiply_adds": 5 * 8 * 8},
        {"kind": "convolution", "module": "", "weights": ["kernel"], "multiply_adds": 3 * 2 * 8 * 3},
    ]
    assert coverage["attention"] == {"attention": 2 * 5 * 5 * 8}
    assert coverage["multiply_adds"]["quantized_layers"] == 5 * 4 * 8


def test_record_states_prescale_terms_and_their_effective_bits(network, x, calibrate):
    calibration = calibrate(network, "w4a8_engine", [x], exclude="unused")
    plans = plans_of(calibration)
    spec = LayerSpec(QuantSpec(4, "per_tensor", terms=2), plans["conv"].spec.weight)
    plans["conv"] = replace(plans["conv"], spec=spec, input_prescale=torch.tensor([2.0, 0.5, 1.0]))
    record = build_quantized(network, calibration, plans).quantization_record
    conv, up = record.layers["conv"], record.layers["up"]
    assert (conv["input"]["num_bits"], conv["input"]["terms"], conv["input_prescale"]) == (4, 2, [0.5, 2.0])
    assert (up["input"]["num_bits"], up["input"]["terms"], up["input_prescale"]) == (8, 1, None)
    assert set(record.precision.values()) == {"w4a8", "float"}
    assert (record.recipe, record.steps, record.seed, record.trials) == ("minmax", [], 0, [])
    assert json.loads(json.dumps(record.to_dict())) == record.to_dict()


@pytest.mark.filterwarnings("ignore::mqb_monai.quantization.NotCalibratedWarning")
def test_build_quantized_without_plans_is_quantize(network, x, calibrate, quantized):
    """Oracle: quantize itself."""
    calibration = calibrate(network, "w4a4_engine", [x])
    expected = quantized("w4a4_engine")
    for found in (build_quantized(network, calibration), build_quantized(network, calibration, plans_of(calibration))):
        assert torch.equal(found(x), expected(x))
        assert found.quantization_record == expected.quantization_record


def test_build_quantized_leaves_layers_without_a_plan_float(network, x, calibrate):
    calibration = calibrate(network, "w8a8_engine", [x], exclude="unused")
    plans = plans_of(calibration)
    del plans["up"]
    qnet = build_quantized(network, calibration, plans)
    record = qnet.quantization_record
    assert list(quantized_layers(qnet)) == list(record.layers) == ["conv", "pointwise", "linear"]
    assert record.precision["up"] == "float"
    assert record.reasons == {"unused": "excluded by unused", "up": "left in floating point by the recipe"}
    assert calibration.reasons == {"unused": "excluded by unused"}
    assert record.coverage["multiply_adds"]["float_layers"] == 2 * 120 * 4 * 3 * 8


def test_build_quantized_refuses_plans_for_layers_that_were_not_calibrated(network, x, calibrate):
    calibration = calibrate(network, "w8a8_engine", [x], include="conv")
    plans = plans_of(calibration)
    with pytest.raises(ValueError, match="not calibrated: up, linear"):
        build_quantized(network, calibration, plans | {"up": plans["conv"], "linear": plans["conv"]})


def test_build_quantized_prescales_inputs_and_divides_weights(network, x, calibrate):
    """Oracle: the weight divided first, then rounded; and the network's own bias."""
    calibration = calibrate(network, "w8a8_engine", [x], exclude="unused")
    plans = plans_of(calibration)
    factors = {"conv": torch.tensor([2.0, 0.5, 3.0]), "up": torch.tensor([1.0, 2.0, 4.0, 0.25])}
    plans |= {name: replace(plans[name], input_prescale=factor) for name, factor in factors.items()}
    qnet = build_quantized(network, calibration, plans)
    for name, factor in factors.items():
        divided = copy.deepcopy(getattr(network, name))
        divided.weight.data = scale_input_channels(divided.weight.data, divided, 1 / factor)
        layer = getattr(qnet, name)
        assert torch.equal(layer.input_prescale, factor)
        expected = quantize_weight(divided, layer.spec.weight)
        assert torch.equal(layer.integer_weight.int(), expected.integers)
        assert torch.equal(layer.weight_scale, expected.scale)
        assert torch.equal(layer.bias, divided.bias)
    assert qnet.pointwise.input_prescale is None


def test_build_quantized_takes_weights_and_biases_of_a_plan(calibrate):
    network, x = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2)).eval(), torch.randn(4, 3)
    calibration = calibrate(network, "w4a8_engine", [x])
    integers, bias = torch.tensor([[1, -2, 3], [-8, 7, 0]]), torch.tensor([0.5, -1.0])
    weight = QuantizedWeight(integers, torch.tensor([0.1, 0.2]), torch.tensor([0, 0], dtype=torch.int32))
    plans = {name: replace(plan, bias=bias) for name, plan in plans_of(calibration).items()}
    plans["0"] = replace(plans["0"], weight=weight)
    qnet = build_quantized(network, calibration, plans)
    assert torch.equal(qnet[0].integer_weight.int(), integers.int())
    assert torch.equal(qnet[0].weight_scale, weight.scale)
    assert all(torch.equal(layer.bias, bias) and layer.bias is not bias for layer in qnet)
    assert network[0].bias is None
    assert type(plans["0"]) is LayerPlan


def test_build_quantized_shares_a_weight_where_its_plans_agree(calibrate):
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
    network[1].weight = network[0].weight
    calibration = calibrate(network, "w4a8_engine", [torch.randn(4, 3)])
    plans = plans_of(calibration)
    weight = quantize_weight(network[0], plans["0"].spec.weight)
    for changes, shared in (
        (({}, {}), True),
        (({"input_prescale": torch.ones(3)}, {"input_prescale": torch.ones(3)}), True),
        (({"input_prescale": torch.ones(3)}, {}), False),
        (({"weight": weight}, {"weight": QuantizedWeight(*weight)}), True),
        (({"weight": weight}, {"weight": weight._replace(integers=weight.integers.clone())}), False),
        (({"weight": weight}, {"weight": weight._replace(scale=weight.scale * 2)}), False),
    ):
        own = {name: replace(plans[name], **change) for name, change in zip(plans, changes, strict=True)}
        qnet = build_quantized(network, calibration, own)
        assert (qnet[0].weight is qnet[1].weight) == shared, changes


def test_build_quantized_without_proof_is_silent_and_takes_the_hash(network, x, calibrate):
    calibration = calibrate(network, "w8a8_engine", [x])  # one layer saw no data: proving would warn
    calls = []
    network.conv.register_forward_hook(lambda *_: calls.append(1))
    qnet = build_quantized(network, calibration, prove=False, sha256="of the original")
    assert qnet.quantization_record.weights_sha256 == "of the original"
    assert not calls


def test_build_quantized_keeps_input_qparams_of_a_plan(network, x, calibrate):
    calibration = calibrate(network, "w8a8_engine", [x], include="conv")
    plan = plans_of(calibration)["conv"]
    qparams = range_qparams(torch.tensor(-3.0), torch.tensor(3.0), plan.spec.input)
    qnet = build_quantized(network, calibration, {"conv": replace(plan, input_qparams=qparams)})
    assert torch.equal(qnet.conv.input_scale, qparams[0])
