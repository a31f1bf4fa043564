from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mqb_monai.bundle.catalog import find_bundle
from scripts.measure.collection import HEADER, build_network, main, table_row

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "networks" / "golden"
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")


def row_of(name: str, max_gmacs: float = 0.0) -> dict[str, str]:
    return dict(zip(HEADER, table_row(find_bundle(name, ROOT / "bundles"), GOLDEN, max_gmacs), strict=True))


def test_table_row_of_a_convolutional_network_by_hand():
    row = row_of("stunet_h_btcv")
    assert row["parameters"] == row["upstream"] == "1,457,054,950" and row["study, M"] == "1457.3"
    assert row["difference"] == row["FP32 s"] == "not run" and row["tolerance"] == "--"
    assert row["of multiply-adds"] == "100.00%"
    assert row["FP32 MB"] == "5828.2"  # 4 bytes for each of 1,457,054,950 parameters
    assert row["layers"] == "83"  # 11 stages of 3 blocks of 2, 11 shortcuts, 5 up-sampling, 1 head that runs


def test_table_row_states_the_difference_from_upstream():
    row = row_of("unet_btcv", max_gmacs=100.0)
    assert float(row["difference"]) <= float(row["tolerance"]) and float(row["FP32 s"]) > 0
    # Oracle: MedPTQ's engines are 23.11 MB in FP32 and 6.61 MB in INT8, biases and overhead included.
    assert 22 < float(row["FP32 MB"]) < 23.2 and 5.6 < float(row["INT8 MB"]) < 6.7


def test_table_row_shows_what_attention_leaves_in_floating_point():
    row = row_of("swinunetr_t_btcv")
    assert row["of multiply-adds"] == "87.24%" and row["upstream"] == "4,078,220"


def test_build_network_allocates_nothing_on_meta():
    network = build_network(find_bundle("stunet_b_btcv", ROOT / "bundles"), "meta")
    assert {parameter.device for parameter in network.parameters()} == {torch.device("meta")}


def test_main_names_patterns_that_match_no_bundle(monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="no bundle matches 'nonsense'"):
        main(["--bundles", "nonsense"])
