from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.networks.transunet import SelfAttention, TransUNet, split_in_proj
from mqb_monai.quantization import quantize, quantized_layers

REDUCED = {"features": (4, 4, 4, 6, 8), "hidden_size": 12, "mlp_dim": 16, "num_heads": 3, "num_layers": 2}


def build(**changes):
    torch.manual_seed(0)
    return TransUNet(**{"in_channels": 1, "out_channels": 3, "img_size": (32, 48, 16), **REDUCED, **changes})


@pytest.fixture
def x():
    return torch.randn(2, 1, 32, 48, 16, generator=torch.Generator().manual_seed(1))


def test_transunet_keeps_the_window(x):
    assert build()(x).shape == (2, 3, 32, 48, 16)
    assert build(in_channels=2)(x.repeat(1, 2, 1, 1, 1)).shape == (2, 3, 32, 48, 16)


def test_transunet_has_one_position_per_token():
    # By hand: 2 x 3 x 1 tokens of 16^3 voxels.
    assert build().position_embeddings.shape == (1, 6, 12)


def test_every_parameter_has_a_gradient(x):
    network = build()
    network(x).square().sum().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_batch_entries_do_not_see_each_other(x):
    network = build().eval()
    with torch.no_grad():
        torch.testing.assert_close(network(x)[1:], network(x[1:]))


def test_bfloat16_autocast_is_close(x):
    network = build().eval()
    with torch.no_grad():
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            result = network(x)
    assert (result.float() - expected).pow(2).mean().sqrt() < 0.05 * expected.std()


def test_export_equals_eager(x):
    network = build().eval()
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(torch.export.export(copy.deepcopy(network), (x,)).module()(x), expected)


def test_quantize_reaches_every_projection(x):
    qnet = quantize(build(), scheme="w8a8_per_channel", batches=[x])
    names = set(quantized_layers(qnet))
    # By hand: 9 double convolutions, 4 up-samplings, embedding and head; 2 blocks of 4 projections and 2 Linears.
    assert len(names) == 9 * 2 + 4 + 2 + 2 * 6
    assert {f"transformer_blocks.1.self_attn.{p}_proj" for p in ("q", "k", "v", "out")} <= names


def test_self_attention_equals_multihead_attention():
    """Oracle: ``nn.MultiheadAttention`` with the same weights, by way of ``split_in_proj``."""
    torch.manual_seed(0)
    oracle = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    nn.init.normal_(oracle.in_proj_bias)
    attention = SelfAttention(12, 3).double()
    attention.load_state_dict(split_in_proj(oracle.state_dict()))
    tokens = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(attention(tokens), oracle(tokens, tokens, tokens, need_weights=False)[0])


def test_split_in_proj_keeps_order_and_other_keys():
    state = {"a.weight": torch.zeros(1), "b.in_proj_bias": torch.arange(6.0), "c": torch.ones(1)}
    split = split_in_proj(state)
    assert list(split) == ["a.weight", "b.q_proj.bias", "b.k_proj.bias", "b.v_proj.bias", "c"]
    assert split["b.k_proj.bias"].tolist() == [2, 3]
    assert split_in_proj({}) == {}


def test_a_window_that_cannot_be_halved_four_times_is_refused():
    for img_size in [(32, 40, 16), (32, 32), (0, 16, 16)]:
        with pytest.raises(InputError, match=r"img_size must be three positive multiples of 16, got \("):
            build(img_size=img_size)


def test_another_window_is_refused(x):
    with pytest.raises(InputError, match=r"windows of \(32, 48, 16\).*got \(48, 32, 16\)"):
        build()(x.transpose(2, 3))


def test_position_embeddings_matter(x):
    network = build()
    network(x).square().sum().backward()
    assert network.position_embeddings.grad.abs().amax(-1).gt(0).all()
