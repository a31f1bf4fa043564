from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization import find_layers, quantize
from mqb_monai.quantization.layers import select_layers


def test_find_layers_gives_each_module_once_with_all_names(nnunet):
    layers = find_layers(nnunet)
    assert len({id(layer.module) for layer in layers}) == len(layers)
    first = next(layer for layer in layers if layer.name == "encoder.stages.0.0.convs.0.conv")
    assert "decoder.encoder.stages.0.0.convs.0.all_modules.0" in first.names
    expected = {id(m) for m in nnunet.modules() if isinstance(m, (nn.Conv3d, nn.ConvTranspose3d, nn.Linear))}
    assert {id(layer.module) for layer in layers} == expected


def test_find_layers_of_a_network_without_any_is_empty():
    assert find_layers(nn.ReLU()) == []


class Same(nn.Conv3d):
    """A subclass that adds nothing to forward."""


class Other(nn.Conv3d):
    def forward(self, x):
        return -super().forward(x)


class OtherInner(nn.Conv3d):
    def _conv_forward(self, x, weight, bias):
        return -super()._conv_forward(x, weight, bias)


def legacy_weight_norm(module):
    module.register_parameter("weight_v", nn.Parameter(module.weight.data))
    del module._parameters["weight"]
    module.weight = module.weight_v * 2  # as torch.nn.utils.weight_norm leaves it: a plain attribute
    return module


def embedded(layer):
    layer.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))
    return layer


def test_layers_that_must_stay_float_are_named_with_the_reason():
    for layer, reason in [
        (Same(2, 2, 1), None),
        (Other(2, 2, 1), "its class Other has its own forward"),
        (OtherInner(2, 2, 1), "its class OtherInner has its own _conv_forward"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "its weight is computed"),
        (legacy_weight_norm(nn.Linear(2, 2)), "its weight is computed"),
        (nn.LazyLinear(2), "not initialized"),
        (embedded(nn.Linear(2, 2)), "not a plain floating-point tensor"),
    ]:
        (found,) = find_layers(nn.Sequential(nn.ReLU(), layer))
        assert found.names == ("1",)
        assert found.reason_unsupported is None if reason is None else reason in found.reason_unsupported


def test_subclass_without_forward_of_its_own_is_quantized():
    network = nn.Sequential(Same(2, 2, 1), Other(2, 2, 1)).eval()
    qnet = quantize(network, "w8a8_per_tensor", [torch.randn(1, 2, 3, 3, 3)])
    assert type(qnet[0]).__name__ == "QuantizedConv3d"
    assert type(qnet[1]) is Other
    assert "own forward" in qnet.quantization_record.reasons["1"]


def test_select_layers_by_any_alias(nnunet):
    layers = find_layers(nnunet)
    chosen, reasons = select_layers(layers, include=["decoder.encoder.*"])
    assert all(layer.name.startswith("encoder.") for layer in chosen)
    assert set(reasons.values()) == {"not in include"}
    _, reasons = select_layers(layers, exclude="decoder.encoder.*.all_modules.0, *seg_layers*")
    assert reasons["encoder.stages.0.0.convs.0.conv"] == "excluded by decoder.encoder.*.all_modules.0"
    assert reasons["decoder.seg_layers.1"] == "excluded by *seg_layers*"


def test_select_layers_takes_what_fire_makes_of_a_list():
    for option in ["0, 2.*,", ("0", "2.*"), ["2.*", "0", ""]]:
        layers = find_layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))))
        assert [layer.name for layer in select_layers(layers, include=option)[0]] == ["0", "2.0"]
        assert [layer.name for layer in select_layers(layers, exclude=option)[0]] == ["1"]
        assert len(select_layers(layers, exclude="")[0]) == 3


def test_select_layers_names_all_patterns_that_match_nothing(network):
    with pytest.raises(
        InputError, match=r"no layer matches 'conv\.weight', 'norm'; layer names are such as 'conv', 'up'"
    ):
        select_layers(find_layers(network), ["conv", "conv.weight"], ["norm", "up"])


def test_select_layers_without_quantizable_layer():
    with pytest.raises(InputError, match=r"no quantizable layer .expected any of Conv1d"):
        select_layers(find_layers(nn.BatchNorm3d(2)))
    with pytest.raises(InputError, match="0: its class Other"):
        select_layers(find_layers(nn.Sequential(Other(1, 1, 1))))
