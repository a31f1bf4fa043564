from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import SwinUNETR

from mqb_monai.errors import InputError
from mqb_monai.networks.patch_merging import LegacyPatchMerging


def build(downsample):
    torch.manual_seed(0)
    return SwinUNETR(
        in_channels=1,
        out_channels=2,
        feature_size=12,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 2, 2),
        downsample=downsample,
    ).eval()


def test_sub_grids_come_in_the_legacy_order():
    """Oracle by hand: each voxel of a 2^3 grid is numbered 4 i + 2 j + k; two come twice, 6 and 3 never."""
    merging = LegacyPatchMerging(1, norm_layer=torch.nn.Identity)
    merging.reduction = torch.nn.Identity()
    tokens = torch.arange(8.0).view(1, 2, 2, 2, 1)
    assert merging(tokens).flatten().tolist() == [0, 4, 2, 1, 5, 2, 1, 7]


def test_merging_halves_the_grid_and_doubles_the_channels():
    assert LegacyPatchMerging(3)(torch.zeros(2, 4, 6, 2, 3)).shape == (2, 2, 3, 1, 6)


def test_current_merging_gives_another_output_with_the_same_state_dict():
    """MONAI 1.6.1's own merging loads the same checkpoint strictly and answers something else: the trap."""
    legacy, current = build(LegacyPatchMerging), build("merging")
    current.load_state_dict(legacy.state_dict(), strict=True)
    x = torch.randn(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = legacy(x)
        assert (current(x) - expected).abs().max() > 0.05 * expected.std()
        torch.testing.assert_close(copy.deepcopy(legacy)(x), expected)


def test_every_parameter_has_a_gradient():
    merging = LegacyPatchMerging(2)
    x = torch.randn(1, 4, 4, 4, 2, generator=torch.Generator().manual_seed(1))
    merging(x).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in merging.parameters())


def test_two_dimensions_are_refused():
    with pytest.raises(InputError, match="3D only, got spatial_dims 2"):
        LegacyPatchMerging(4, spatial_dims=2)


def test_grids_that_cannot_be_halved_are_refused():
    for shape in [(1, 3, 4, 4, 2), (1, 4, 4, 2)]:
        with pytest.raises(InputError, match=r"even H, W, D, got \(1, "):
            LegacyPatchMerging(2)(torch.zeros(shape))
