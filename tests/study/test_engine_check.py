from __future__ import annotations

import json

import pytest

from mqb_monai.bundle.catalog import find_bundle
from mqb_monai.errors import InputError
from mqb_monai.study.engine_check import check_bundle, chosen_bundles, table_row

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
NETWORK = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [8, 16],
    "strides": [2],
}


@pytest.fixture
def root(tmp_path):
    """Bundles of one tiny network: ``small`` and, by its own word, ``big``."""
    for name, parameters in (("small", 5_000), ("big", 2_000_000_000)):
        folder = tmp_path / name / "configs"
        folder.mkdir(parents=True)
        (folder / "inference.json").write_text(json.dumps({"network_def": NETWORK}))
        image = {"num_channels": 1, "spatial_shape": [8, 8, 8]}
        metadata = {"parameters": parameters, "network_data_format": {"inputs": {"image": image}}}
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return tmp_path


def test_check_bundle_without_weights(root):
    checked = check_bundle(find_bundle("small", root), "w8a8_engine")
    assert checked.passed and checked.weights == "random"
    # By hand: MONAI's UNet of two levels has a convolution down, one below, and a transposed one up.
    assert checked.layers == 3 and len(checked.simulated) == 6 and checked.exported == checked.simulated
    assert checked.layer_check["layers"] == 3 and checked.layer_check["worst_share"] >= 0.999
    assert 0 <= checked.relative_rms < 0.05
    assert checked.parameters < checked.int8_bytes < checked.fp32_bytes  # a byte a weight, and the nodes
    assert {finding.severity for finding in checked.findings} <= {"hint"}
    row = table_row(checked)
    assert row[0] == "small" and row[2:6] == ("random", "3", "6", "6")


def test_check_bundle_says_what_an_engine_is_refused_for(root):
    checked = check_bundle(find_bundle("small", root), "w8a8_per_channel")
    assert not checked.passed and checked.int8_bytes == 0
    assert "per_channel activations" in checked.failures[0] and "w8a8_engine" in checked.failures[0]


def test_chosen_bundles_leaves_out_the_big_ones(root):
    assert [info.name for info in chosen_bundles("*", 100, root)] == ["small"]
    assert [info.name for info in chosen_bundles("b*, s*", 5000, root)] == ["big", "small"]
    with pytest.raises(InputError, match="no bundle of up to 100 million parameters matches 'big'"):
        chosen_bundles("big", 100, root)
    with pytest.raises(InputError, match="max_parameters_m must be a number of millions, got 'many'"):
        chosen_bundles("*", "many", root)
