from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional as F

from mqb_monai.quantization.operations.products import Product, count_products


class Functional(nn.Module):
    """What no layer holds: every kind of product once, on tokens ``(B, 5, 8)`` and a volume of 4 x 4 x 4."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(2, 1, 3, 3, 3))
        self.matrix = nn.Parameter(torch.randn(6, 8))
        self.register_buffer("blur", torch.ones(2, 1, 1, 1, 1))
        self.prototypes = nn.Embedding(3, 8)
        self.project = nn.Linear(8, 8)

    def forward(self, x):
        volume = F.conv3d(x[:, :1, :4, None, None].expand(-1, -1, -1, 4, 4), self._standardized(), padding=1)
        F.conv3d(volume, self.blur, groups=2)
        F.linear(x, self.matrix)
        prototypes = self.project(self.prototypes(torch.arange(3, device=x.device)))
        torch.einsum("bnc,kc->bnk", x, prototypes)
        x[0] @ torch.eye(8, device=x.device)
        F.conv1d(x, x[:, :, :1])
        return x @ x.transpose(1, 2)

    def _standardized(self):
        return (self.kernel - self.kernel.mean()) / self.kernel.std()


def counts(network, x):
    with torch.no_grad(), count_products(network) as products:
        network(x)
    return dict(products)


EXPECTED = {  # by hand
    Product("convolution", "", ("kernel",)): 64 * 2 * 27,
    Product("convolution", "", ("blur",)): 64 * 2,
    Product("linear", "", ("matrix",)): 5 * 6 * 8,
    Product("layer", "project"): 3 * 8 * 8,
    Product("linear", "", ("prototypes.weight",)): 5 * 3 * 8,
    Product("linear", ""): 5 * 8 * 8,  # by a constant
    Product("convolution", ""): 8 * 5,  # by an activation
    Product("attention", ""): 5 * 5 * 8,
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_products_outside_of_layers_by_hand(device):
    assert counts(Functional().to(device), torch.rand(1, 5, 8, device=device)) == EXPECTED


def test_products_are_the_same_however_the_network_runs():
    network, x = Functional(), torch.rand(1, 5, 8)
    assert counts(network, MetaTensor(x)) == EXPECTED
    with torch.inference_mode():  # there torch hands on composite operators whole
        assert counts(network, x) == EXPECTED
    with torch.autocast("cpu", dtype=torch.bfloat16):  # casts weights before it multiplies
        assert counts(network, x) == EXPECTED


class Tokens(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("device", ["cpu", "meta"])  # fused attention, and two matrix products
def test_multihead_attention_multiplies_by_parameters_that_no_layer_holds(device):
    """By hand: E = 8, N = 5. ``out_proj`` is a Linear by type, but its forward never runs."""
    network = Tokens(nn.MultiheadAttention(8, 2, batch_first=True)).eval().to(device)
    assert counts(network, torch.rand(1, 5, 8, device=device)) == {
        Product("linear", "attention", ("attention.in_proj_weight",)): 3 * 5 * 8 * 8,
        Product("attention", "attention"): 2 * 5 * 5 * 8,
        Product("linear", "attention", ("attention.out_proj.weight",)): 5 * 8 * 8,
    }


def test_fused_transformer_layer_hides_nothing():
    """By hand, as above, and a feed-forward part of 16; torch would run this layer as one operator."""
    network = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = counts(network, torch.rand(1, 5, 8))
    assert found[Product("attention", "self_attn")] == 2 * 5 * 5 * 8
    assert found[Product("linear", "self_attn", ("self_attn.in_proj_weight",))] == 3 * 5 * 8 * 8
    assert found[Product("layer", "linear1")] == found[Product("layer", "linear2")] == 5 * 8 * 16
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_linear_layer_counts_rows_by_hand(dim):
    x = torch.rand(*(2, 3, 4)[3 - dim :])
    assert counts(nn.Linear(4, 5, bias=False), x) == {Product("layer", ""): x.numel() * 5}


def test_shared_module_counts_every_call_under_its_first_name(nnunet):
    shared = nn.Linear(4, 4)
    assert counts(nn.Sequential(shared, shared), torch.rand(3, 4)) == {Product("layer", "0"): 2 * 3 * 4 * 4}
    names = [product.module for product in counts(nnunet, torch.rand(1, 1, 8, 16, 16))]
    assert len(names) == 8  # 3 convolutions in the encoder, 2 transposed and 2 more in the decoder, one head
    assert not any("all_modules" in name or "decoder.encoder" in name for name in names)


def test_count_products_leaves_nothing_behind_after_an_error():
    network = nn.Sequential(nn.Sequential(nn.Conv3d(1, 2, 3)), nn.Linear(4, 4))
    with count_products(network) as products, pytest.raises(RuntimeError, match="channels"):
        network(torch.rand(1, 3, 4, 4, 4))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    network[0](torch.rand(1, 1, 4, 4, 4))
    assert not products


def test_products_read_as_a_sentence():
    assert str(Product("linear", "blocks.0", ("blocks.0.kernel",))) == "linear in blocks.0 (blocks.0.kernel)"
    assert str(Product("convolution", "")) == "convolution in the network itself"
