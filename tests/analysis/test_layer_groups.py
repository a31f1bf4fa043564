from __future__ import annotations

import pytest
import torch
from monai.networks.nets import UNETR, SwinUNETR
from torch import nn

from mqb_monai.analysis.layer_groups import GROUPS, describe_layer, group_layers
from mqb_monai.networks import MedFormer
from mqb_monai.quantization.layers import find_layers


def groups_of(network):
    layers = [layer.name for layer in find_layers(network)]
    return layers, group_layers(network, layers)


def groups_with(groups, layer):
    return {group for group, layers in groups.items() if layer in layers}


@pytest.fixture(scope="module")
def swin():
    return groups_of(SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=4))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [  # by hand
        ("swinViT.patch_embed.proj", {"encoder", "kernel_larger", "first"}),
        ("swinViT.layers1.0.blocks.0.attn.proj", {"encoder", "attention", "linear"}),
        ("swinViT.layers1.0.blocks.0.mlp.linear1", {"encoder", "mlp", "linear"}),
        ("encoder1.layer.conv1.conv", {"encoder", "skip", "kernel_larger"}),
        ("encoder1.layer.conv3.conv", {"encoder", "skip", "kernel_1x1x1"}),
        ("decoder5.transp_conv.conv", {"decoder", "transposed"}),
        ("out.conv.conv", {"decoder", "kernel_1x1x1", "last"}),
    ],
)
def test_group_layers_of_swin_unetr(swin, layer, expected):
    assert groups_with(swin[1], layer) == expected


@pytest.mark.parametrize("network", ["nnunet", "unetr", "medformer"])
def test_group_layers_puts_every_layer_on_a_side_and_into_a_kind(network, request):
    if network == "nnunet":
        network = request.getfixturevalue("nnunet")[0]
    elif network == "unetr":
        network = UNETR(1, 2, (16, 16, 16), feature_size=4, hidden_size=12, mlp_dim=8, num_heads=2)
    else:
        network = MedFormer(1, 2, stem_features=4, features=[8] * 7 + [4], num_heads=[1] * 8)
    layers, groups = groups_of(network)
    kinds = ("kernel_1x1x1", "kernel_larger", "transposed", "linear")
    assert sorted(name for kind in kinds for name in groups.get(kind, ())) == sorted(layers)
    sides = [*groups["encoder"], *groups["decoder"]]
    assert len(sides) == len(set(sides))
    rest = set(layers) - set(sides)  # MedFormer's fusion of semantic maps lies between the two
    assert all(name.startswith("map_fusion.") for name in rest)


def test_group_layers_takes_the_leftmost_part_for_the_side():
    network = nn.ModuleDict({"image_encoder": nn.ModuleDict({"up_layers": nn.ModuleList([nn.Conv3d(1, 1, 1)])})})
    assert "decoder" in group_layers(network, ["image_encoder.up_layers.0"])


def test_group_layers_of_no_layers_is_empty():
    assert group_layers(nn.Sequential(), []) == {}


def test_group_layers_keeps_the_order_of_the_groups(swin):
    assert list(swin[1]) == [group for group in GROUPS if group in swin[1]]


def test_describe_layer_names_type_and_kernel():
    with torch.device("meta"):
        assert describe_layer(nn.Conv3d(1, 1, (1, 3, 3))) == "Conv3d 1x3x3"
        assert describe_layer(nn.Linear(1, 1)) == "Linear"
