from __future__ import annotations

import math

import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from mqb_monai.analysis.replay import ReplayedNetwork
from mqb_monai.analysis.sensitivity import (
    count_forwards,
    infer_variants,
    measure_replay,
    output_error,
    run_variants,
)
from mqb_monai.analysis.variants import cumulative_variants, single_variants
from mqb_monai.errors import InputError
from mqb_monai.evaluation.patches import first_patch
from mqb_monai.quantization import quantize


@pytest.fixture
def two_layers():
    """``b(a(x))``, 1x1x1, weights 1 and (1, -0.3); 2-bit weights per output channel, 8-bit input."""
    network = nn.Sequential(nn.Conv3d(1, 1, 1, bias=False), nn.Conv3d(1, 2, 1, bias=False)).eval()
    with torch.no_grad():
        network[0].weight.fill_(0.5)
        network[1].weight.copy_(torch.tensor([1.0, -0.3]).view(2, 1, 1, 1, 1))
    return network


def variants_of(replayed, groups=None):
    return [*single_variants(replayed.layers, groups or {}), *cumulative_variants(replayed.layers)]


def test_quantizing_one_layer_alone_by_hand(two_layers):
    # By hand, w4a4_per_tensor: values of x are on the grid of max 7 (scale 1), so that only weights are rounded, and
    # layer 0's single weight is its own maximum: exact. Layer 1: input max 3.5, scale 0.5, 1.5 and 3.5 on the grid;
    # weights scale 1/7, -0.3 * 7 = -2.1 -> -2/7. So quantizing layer 0 changes nothing, layer 1 the second channel.
    x = torch.tensor([3.0, 7.0]).view(1, 1, 2, 1, 1)
    replayed = ReplayedNetwork(two_layers, quantize(two_layers, "w4a4_per_tensor", [x]).eval())
    variants = single_variants(replayed.layers, {})
    outputs = {v.key: y.flatten(2) for v, y in zip(variants, run_variants(replayed, x, variants), strict=True)}
    exact = torch.tensor([[[1.5, 3.5], [-0.45, -1.05]]])
    rounded = torch.tensor([[[1.5, 3.5], [-1.5 * 2 / 7, -1.0]]])
    for key, expected in {
        ("fp32", ""): exact,
        ("quantize_layer", "0"): exact,
        ("quantize_layer", "1"): rounded,
        ("quantized", ""): rounded,
        ("dequantize_layer", "0"): rounded,
        ("dequantize_layer", "1"): exact,
    }.items():
        torch.testing.assert_close(outputs[key], expected, msg=str(key))


def test_output_error_by_hand():
    reference = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).view(1, 2, 2, 1, 1)
    logits = torch.tensor([[3.0, 0.0], [0.0, -1.0]]).view(1, 2, 2, 1, 1)
    # RMS of the difference 5 over RMS of (3, 4); the second voxel's class turns from 1 to 0.
    assert output_error(logits, reference) == (pytest.approx(1.0), 0.5)
    assert output_error(reference, reference) == (0, 0)


def test_output_error_of_zero_logits_and_of_none_is_nan():
    zeros = torch.zeros(1, 2, 1, 1, 1)
    assert math.isnan(output_error(zeros, zeros)[0]) and output_error(zeros, zeros)[1] == 0
    assert all(math.isnan(value) for value in output_error(zeros[:, :, :0], zeros[:, :, :0]))


@pytest.mark.parametrize("limit_mib", [64, 1e-9])
def test_infer_variants_joins_patches_as_each_variant_alone(tricky, limit_mib):
    # Oracle: the same inferer on one variant at a time, every patch in full. With hardly any memory, two at a time.
    image = torch.randn(1, 1, 12, 8, 8, generator=torch.Generator().manual_seed(2))
    inferer = SlidingWindowInferer(roi_size=(8, 6, 6), sw_batch_size=2, overlap=0.25, mode="gaussian")
    replayed, full = ReplayedNetwork(*tricky), ReplayedNetwork(*tricky, limit_mib=0)
    variants = variants_of(replayed, {"pair": replayed.layers[:2]})
    ran = []
    results = list(infer_variants(replayed, image, variants, inferer, limit_mib, 3, ran.append))
    assert [variant for variant, _, _ in results] == variants
    fp32 = inferer(image, lambda patch: full(patch))
    for variant, logits, reference in results:
        assert torch.equal(reference, fp32)
        assert torch.equal(logits, inferer(image, lambda patch, v=variant: full(patch, v.quantized)))
    others = len(variants) - 1
    assert sum(ran) % (len(variants) if limit_mib == 64 else 2 * others) == 0


def test_first_patch_leaves_the_image_alone():
    image = torch.ones(1, 1, 12, 8, 8)
    first_patch(image, SlidingWindowInferer(roi_size=(8, 8, 8), overlap=0.25, mode="gaussian"))
    assert torch.equal(image, torch.ones(1, 1, 12, 8, 8))


def test_first_patch_counts_what_the_inferer_makes():
    image = torch.arange(2 * 12.0 * 8 * 8).view(1, 2, 12, 8, 8)
    patch, count = first_patch(image, SlidingWindowInferer(roi_size=(6, 8, 8), sw_batch_size=1, overlap=0))
    assert count == 2 and torch.equal(patch, image[:, :, :6])
    patch, count = first_patch(image, SimpleInferer())
    assert count == 1 and torch.equal(patch, image)


def test_count_forwards_is_what_run_variants_takes(tricky, x):
    replayed = ReplayedNetwork(*tricky)
    variants = variants_of(replayed)
    planned, naive = count_forwards(replayed, x, variants)
    before = replayed.forwards
    list(run_variants(replayed, x, variants))
    assert replayed.forwards - before == planned
    full = ReplayedNetwork(*tricky, limit_mib=0)  # oracle: every variant computed
    for variant in variants:
        full(x, variant.quantized)
    assert full.forwards == naive > planned


def test_measure_replay_finds_it_exact(tricky, x):
    replayed = ReplayedNetwork(*tricky)
    check = measure_replay(replayed, x, variants_of(replayed), tries=3)
    assert check.exact and check.tried == 3 and check.replay_s > 0 and check.naive_s > 0


def test_measure_replay_finds_out_a_network_with_a_side_channel():
    class Aside(nn.Module):
        """Leaves its result on itself, where replaying does not see it."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 1, 1)

        def forward(self, x):
            self.kept = self.conv(x)
            return torch.zeros_like(x)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.aside, self.head, self.last = Aside(), nn.Conv3d(1, 2, 1), nn.Conv3d(2, 2, 1)

        def forward(self, x):
            y = self.last(self.head(self.aside(x) + x))
            return y + self.aside.kept

    torch.manual_seed(0)
    network, x = Network().eval(), torch.randn(1, 1, 3, 3, 3)
    replayed = ReplayedNetwork(network, quantize(network, "w4a4_per_tensor", [x]).eval())
    variants = single_variants(replayed.layers, {})
    variants.sort(key=lambda variant: (variant.kind != "fp32", variant.target == "last"))
    assert not measure_replay(replayed, x, variants, tries=len(variants)).exact


def test_run_variants_refuses_an_output_that_is_no_tensor(x):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 2, 1)

        def forward(self, x):
            return [self.conv(x)]

    network = Deep().eval()
    replayed = ReplayedNetwork(network, quantize(network, "w8a8_engine", [x]).eval())
    with pytest.raises(InputError, match=r"got a list\. Build it without deep supervision"):
        next(run_variants(replayed, x, single_variants(replayed.layers, {})))
