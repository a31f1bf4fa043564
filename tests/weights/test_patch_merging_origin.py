from __future__ import annotations

import hashlib

import pytest
import torch
from monai.networks.nets import SwinUNETR
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.networks.patch_merging import LegacyPatchMerging
from mqb_monai.weights import patch_merging_origin
from mqb_monai.weights.file import read_weights
from mqb_monai.weights.patch_merging_origin import check_merging, network_merging


def swin(downsample, spatial_dims=3):
    # Four stages are fixed: the smallest feature size and one block each.
    return SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), downsample=downsample, spatial_dims=spatial_dims)


@pytest.fixture(scope="module")
def networks():
    return {"legacy": swin(LegacyPatchMerging), "current": swin("merging")}


@pytest.fixture
def checkpoint(tmp_path):
    def save(**entries):
        torch.save({"state_dict": {"weight": torch.zeros(1)}, **entries}, tmp_path / "swin.pt")
        return read_weights(tmp_path / "swin.pt")

    return save


def test_network_merging_tells_the_order(networks):
    assert {name: network_merging(network) for name, network in networks.items()} == {
        "legacy": "legacy",
        "current": "current",
    }
    assert network_merging(nn.Conv3d(1, 1, 1)) == ""


def test_network_merging_leaves_out_what_never_changed():
    for downsample, spatial_dims in [("mergingv2", 3), ("merging", 2)]:
        assert network_merging(swin(downsample, spatial_dims)) == ""


def test_check_merging_reads_a_recorded_version_before_1_5(networks, checkpoint):
    for version in ["0.8.1", "1.1.0", "1.4.0"]:
        recorded = checkpoint(monai_version=version)
        said = check_merging(networks["legacy"], recorded)
        assert said == f"legacy patch merging: the file says that MONAI {version} wrote it"
        with pytest.raises(
            InputError, match=r"trained with legacy patch merging .*, the network has the current one"
        ) as e:
            check_merging(networks["current"], recorded)
        assert "mqb_monai.networks.LegacyPatchMerging" in str(e.value) and "MONAI 1.5 or later" in str(e.value)


def test_check_merging_reads_a_recorded_version_from_1_5_on(networks, checkpoint):
    for version in ["1.5.0", "1.5.0rc1", "1.10.0", "2.0"]:
        recorded = checkpoint(monai_version=version)
        assert check_merging(networks["current"], recorded).startswith("current patch merging")
        with pytest.raises(InputError, match=r'the network has the legacy one.*set "downsample": "merging"'):
            check_merging(networks["legacy"], recorded)


def test_check_merging_knows_a_public_file(networks, checkpoint, monkeypatch):
    known = checkpoint()
    md5 = hashlib.md5(known.path.read_bytes()).hexdigest()
    monkeypatch.setitem(patch_merging_origin.PUBLIC_FILES, md5, ("the public one", "legacy"))
    assert check_merging(networks["legacy"], known) == "legacy patch merging: the file is the public one"
    with pytest.raises(InputError, match=r"the file is the public one.*would load and give wrong results"):
        check_merging(networks["current"], known)
    with pytest.raises(InputError, match="--merging current was given, but the file is the public one"):
        check_merging(networks["current"], known, "current")


@pytest.mark.parametrize("version", [None, "", "main"])
@pytest.mark.parametrize("needed", ["legacy", "current"])
def test_check_merging_never_guesses(networks, checkpoint, needed, version):
    unknown = checkpoint(monai_version=version)
    with pytest.raises(InputError) as caught:
        check_merging(networks[needed], unknown)
    for part in ("--merging legacy for", "--merging current for", f"This bundle's network has the {needed} one"):
        assert part in str(caught.value)
    assert check_merging(networks[needed], unknown, needed) == f"{needed} patch merging: --merging {needed} says so"
    other = {"legacy": "current", "current": "legacy"}[needed]
    with pytest.raises(InputError, match=f"trained with {other} patch merging"):
        check_merging(networks[needed], unknown, other)


def test_check_merging_asks_nothing_of_other_networks(checkpoint):
    assert check_merging(nn.Conv3d(1, 1, 1), checkpoint()) == ""


def test_check_merging_names_the_words_it_takes(networks, checkpoint):
    with pytest.raises(InputError, match="'old' is not known: expected legacy or current"):
        check_merging(networks["legacy"], checkpoint(), "old")
