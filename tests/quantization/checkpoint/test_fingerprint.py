from __future__ import annotations

import hashlib

import torch
from torch import nn

from mqb_monai.quantization import weights_sha256


def test_weights_sha256_by_hand():
    state = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3)}
    data = b"a\n()\nint64\n" + (3).to_bytes(8, "little") + b"b\n(1, 2)\nfloat32\n" + bytes.fromhex("0000803f00000040")
    assert weights_sha256(state) == hashlib.sha256(data).hexdigest()


def test_weights_sha256_ignores_order_layout_and_float_type():
    a, b = torch.arange(6.0).view(2, 3), torch.ones(2)
    expected = weights_sha256({"a": a, "b": b})
    assert weights_sha256({"b": b.double(), "a": a.half()}) == expected
    assert weights_sha256({"a": a.T.contiguous().T, "b": b, "extra": {"no": "tensor"}}) == expected


def test_weights_sha256_sees_names_shapes_and_values():
    a = torch.arange(6.0)
    digests = {
        weights_sha256(s) for s in ({"a": a}, {"b": a}, {"a": a.view(2, 3)}, {"a": a + 1e-6}, {"a": a.int()}, {})
    }
    assert len(digests) == 6
    assert weights_sha256({}) == hashlib.sha256().hexdigest()


def test_weights_sha256_of_a_network_changes_with_one_weight():
    network = nn.Linear(3, 3)
    before = weights_sha256(network.state_dict())
    assert weights_sha256(network.state_dict()) == before
    network.weight.data[0, 0] += 1
    assert weights_sha256(network.state_dict()) != before
