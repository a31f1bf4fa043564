"""What of the GPU benchmark runs without one: the table, MedPTQ's figures, and the sentence where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from mqb_monai.benchmark import gpu_engines
from mqb_monai.benchmark.gpu_engines import EngineRow, as_table, main
from mqb_monai.records.collection import find_bundle, read_metadata


def test_main_stops_with_one_sentence_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        SystemExit, match=r"^error: the tensorrt backend needs an NVIDIA GPU.*requirements-tensorrt\.txt"
    ):
        main(["--bundles", "unet_btcv"])


def test_published_figures_are_those_of_the_bundle_s_pair():
    """Oracle: MedPTQ's README, its row U-Net on BTCV; a bundle that is no pair of MedPTQ has none."""
    published = gpu_engines._published(read_metadata(find_bundle("unet_btcv").folder)["published"])
    assert published == {"TensorRT FP32": (2.62, 23.11), "TensorRT INT8 + FP16": (1.05, 6.61)}
    assert gpu_engines._published(read_metadata(find_bundle("nnunet_btcv").folder)["published"]) == {}


def test_as_table_shows_what_there_is_and_dashes_for_the_rest():
    row = EngineRow("b", "TensorRT INT8 + FP16", 1.234, 2.5, 6.0, 61.0, 0.9995, 1, 1.05, None)
    header, line = as_table([row]).splitlines()
    assert header.split()[:3] == ["bundle", "engine", "ms"]
    assert line.split() == "b TensorRT INT8 + FP16 1.23 2.50 6.0 61 99.950% 1 1.05 --".split()
