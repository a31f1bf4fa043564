from __future__ import annotations

import math

import pytest
import torch

from mqb_monai.analysis.outliers import OutlierObserver

SHAPE = (1, 20, 10, 10, 10)


def noise(seed=0):
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.1


def places_of(*tensors, channel_axis=-4):
    observer = OutlierObserver(channel_axis)
    for tensor in tensors:
        observer.update(tensor)
    return observer.places()


def test_outliers_in_one_place_across_all_channels_are_voxel_outliers():
    x = noise()
    x[:, :, 4:6, 4:6, 4] = 10  # four voxels of 1000, all 20 channels: 80 values of 20 000
    places = places_of(x)
    # By hand: the top 10 of 1000 voxels hold all; the top 2 of 20 channels a tenth; in its channel each of the four
    # has two neighbours among the other three... of six: 8 of 24.
    assert places.share == 80 / 20000
    assert places.voxel_share == 1 and places.voxel_concentration == 1
    assert places.channel_share == pytest.approx(0.1)
    assert places.channel_concentration < 0
    assert places.neighbour_share == pytest.approx(8 / 24)
    assert places.energy_share == pytest.approx(8000 / x.double().square().sum().item())


def test_outliers_in_one_channel_are_channel_outliers():
    x = noise()
    x[:, 3, ::3, ::3, ::3] = 10  # 4^3 voxels, no two side by side
    places = places_of(x)
    assert places.share == 64 / 20000
    assert places.channel_share == 1 and places.channel_concentration == 1
    assert places.voxel_share == pytest.approx(10 / 64)  # by hand: 10 voxels of 1000
    assert places.neighbour_share == 0


def test_outliers_at_random_are_as_by_chance():
    x = noise()
    chosen = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3)) < 0.01
    places = places_of(torch.where(chosen, 10.0, x))
    assert places.voxel_concentration == pytest.approx(0, abs=0.03)
    assert places.channel_concentration == pytest.approx(0, abs=0.03)
    assert places.neighbour_share == pytest.approx(places.share, abs=0.01)


def test_outliers_of_tokens_have_no_neighbours():
    x = torch.zeros(2, 50, 8)
    x[1, 7] = 1.0  # all eight channels of one token of a hundred
    places = places_of(x, channel_axis=-1)
    assert places.voxel_share == 1 and places.channel_share == pytest.approx(1 / 8)
    assert math.isnan(places.neighbour_share)


def test_outliers_of_several_tensors_are_summed():
    first, second = noise(), noise(1)
    first[0, 0, 0, 0, 0] = second[0, 5, 9, 9, 9] = 10
    places = places_of(first, torch.zeros(1, 20, 0, 10, 10), second)
    assert places.share == 2 / 40000 and places.voxel_share == places.channel_share == 1
    assert math.isnan(places.voxel_concentration)  # one outlier a tensor: chance would do the same


def test_outliers_of_even_values_are_none():
    assert places_of(noise()) is None
    assert places_of(torch.ones(SHAPE)) is None
    assert OutlierObserver(-1).places() is None
