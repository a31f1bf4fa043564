from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.quantization import quantize, save_quantized
from mqb_monai.quantization.checkpoint.file import read_checkpoint
from mqb_monai.study.cell_records import layer_bits, stored_bytes


@pytest.mark.parametrize(("scheme", "bits"), [("w8a8_engine", 8), ("w4a8_engine", 4), ("w3a3_engine", 3)])
def test_stored_bytes_counts_integers_at_their_bits(tmp_path, scheme, bits):
    """By hand: 15 and 25 weights; biases, scales and zero points of weights and inputs are kept as they are."""
    network = nn.Sequential(nn.Conv1d(3, 5, 1), nn.Flatten(), nn.Linear(5, 5)).eval()
    save_quantized(quantize(network, scheme, [torch.randn(2, 3, 1)]), tmp_path / f"{scheme}.pt")
    kept = 2 * 4 * (5 + 5 + 5 + 1 + 1)
    assert stored_bytes(read_checkpoint(tmp_path / f"{scheme}.pt")) == (15 + 25) * bits / 8 + kept


def test_stored_bytes_of_a_network_that_is_one_layer(tmp_path):
    network = nn.Linear(3, 5, bias=False)
    save_quantized(quantize(network, "w4a8_engine", [torch.randn(2, 3)]), tmp_path / "w4a8_engine.pt")
    assert stored_bytes(read_checkpoint(tmp_path / "w4a8_engine.pt")) == 15 / 2 + 4 * (5 + 5 + 1 + 1)


def test_layer_bits_of_a_scheme_without_layers():
    assert [layer_bits(name, {}) for name in ("fp32", "w4a8_engine", "w2a8_engine", "w3a3_engine")] == [
        (32, 32),
        (4, 8),
        (2, 8),
        (3, 3),
    ]


def test_layer_bits_are_those_of_most_quantized_layers():
    precision = {"a": "float", "b": "w4a4", "c": "w8a8", "d": "float", "e": "w4a4", "f": "float"}
    assert layer_bits("w4a8_engine", precision) == (4, 4) and layer_bits("bf16", precision) == (16, 16)
