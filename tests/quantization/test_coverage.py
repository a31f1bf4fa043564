from __future__ import annotations

import math

import pytest
import torch
from monai.networks.nets import UNETR, SegResNet, SwinUNETR
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mqb_monai.errors import InputError
from mqb_monai.quantization import Coverage, count_coverage
from mqb_monai.quantization.operations.products import Product


def test_count_coverage_by_hand(network, x):
    coverage = count_coverage(network, x[:1])
    voxels = 6 * 5 * 4
    assert coverage.layers == {
        "conv": voxels * 4 * 3 * 27,
        "up": voxels * 4 * (6 // 2) * 8,  # two groups; each input voxel meets the whole kernel
        "pointwise": 8 * voxels * 4 * 6,
        "linear": 8 * voxels * 5 * 4,
    }
    assert coverage.quantized == ("conv", "up", "pointwise", "linear")  # the unused layer would stay float
    assert coverage.quantized_share == 1
    assert coverage.total == sum(coverage.layers.values())
    assert count_coverage(network, x).total == 2 * coverage.total


def test_count_coverage_goes_by_the_placement(network, x):
    coverage = count_coverage(network, x, include=["conv", "up"], exclude="up")
    assert coverage.quantized == ("conv",)
    assert coverage.multiply_adds["quantized_layers"] == coverage.layers["conv"]
    assert coverage.multiply_adds["float_layers"] == coverage.total - coverage.layers["conv"]
    with pytest.raises(InputError, match="no layer matches 'nothing'"):
        count_coverage(network, x, exclude="nothing")


@pytest.mark.parametrize(
    ("build", "size", "attention"),
    [
        (lambda: SegResNet(init_filters=8), 16, []),
        (lambda: UNETR(1, 2, (16,) * 3, 4, 48, 96, 3), 16, [f"vit.blocks.{i}.attn" for i in range(12)]),
        (
            lambda: SwinUNETR(1, 2, feature_size=12),
            64,
            [f"swinViT.layers{i}.0.blocks.{j}.attn" for i in (1, 2, 3, 4) for j in (0, 1)],
        ),
    ],
    ids=["SegResNet", "UNETR", "SwinUNETR"],
)
def test_count_coverage_of_monai_networks_on_the_meta_device(build, size, attention):
    """Oracle: torch's own counter. On "meta", as big networks are counted."""
    network, x = build().eval().to("meta"), torch.empty(1, 1, size, size, size, device="meta")
    coverage = count_coverage(network, x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    assert coverage.total == counter.get_total_flops() // 2
    assert list(coverage.attention) == attention
    assert coverage.outside == {}
    assert coverage.multiply_adds["float_layers"] == 0


def test_count_coverage_leaves_the_network_as_it_was(network, x):
    network.train()
    network.norm.eval()
    mean = network.norm.running_mean.clone()
    count_coverage(network, x)
    assert network.training and not network.norm.training
    assert torch.equal(network.norm.running_mean, mean)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_count_coverage_refuses_an_input_without_data(network):
    with pytest.raises(InputError, match="example_input is on the meta device, the network on cpu"):
        count_coverage(network, torch.empty(1, 3, 4, 4, 4, device="meta"))


def test_count_coverage_without_a_quantizable_layer():
    with pytest.raises(InputError, match="no quantizable layer"):
        count_coverage(nn.ReLU(), torch.rand(2))


def test_coverage_sums_by_kind():
    products = {
        Product("layer", "a"): 60,
        Product("layer", "b"): 20,
        Product("attention", "c"): 15,
        Product("linear", "d", ("d.weight",)): 5,
    }
    coverage = Coverage.of(products, ["a", "never_run"])
    assert coverage.quantized_share == pytest.approx(0.6)
    assert coverage.summary() == {
        "quantized_share": pytest.approx(0.6),
        "multiply_adds": {
            "quantized_layers": 60,
            "float_layers": 20,
            "quantized_attention": 0,
            "float_attention": 15,
            "outside": 5,
        },
        "attention": {"c": 15},
        "outside": [{"kind": "linear", "module": "d", "weights": ["d.weight"], "multiply_adds": 5}],
    }


def test_coverage_counts_quantized_attention():
    products = {Product("layer", "a"): 60, Product("attention", "b"): 30, Product("attention", "c"): 10}
    coverage = Coverage.of(products, ["a"], ["b", "never_run"])
    assert coverage.quantized_attention == ("b",)
    assert coverage.multiply_adds["quantized_attention"] == 30
    assert coverage.multiply_adds["float_attention"] == 10
    assert coverage.quantized_share == pytest.approx(0.9)


def test_coverage_of_nothing():
    coverage = Coverage.of({}, [])
    assert (coverage.total, coverage.summary()) == (0, {})
    assert math.isnan(coverage.quantized_share)
