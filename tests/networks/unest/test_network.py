from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.networks.unest.nested_transformer import BlockAttention, NestLevel, TransformerLayer
from mqb_monai.networks.unest.network import UNesT

REDUCED = {"depths": (1, 1, 2), "embed_dim": (8, 12, 16), "num_heads": (2, 3, 4), "feature_size": 2}
HIPPOCAMPUS = (48, 64, 48)


def build(img_size=(16, 32, 48), **arguments) -> UNesT:
    """A small network: with patches of 4, blocks of 1 x 2 x 3 tokens, one of which is odd and one halved to 1."""
    torch.manual_seed(0)
    return UNesT(2, 3, img_size=img_size, **{**REDUCED, **arguments})


@pytest.fixture(scope="module")
def network():
    return build()


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 2, 16, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("out_channels, parameters", [(14, 87_201_231), (133, 87_205_158)])
def test_unest_has_upstream_parameter_count(out_channels, parameters):
    with torch.device("meta"):  # oracle: the counts of the golden files unest_14 and unest_133
        network = UNesT(1, out_channels)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    "img_size, patch_size, num_blocks_tokens",
    [
        (HIPPOCAMPUS, 4, 3 * 4 * 3),
        ((32, 64, 32), 4, 2 * 4 * 2),
        ((16, 32, 48), 4, 1 * 2 * 3),
        ((16, 24, 24), 2, 2 * 3 * 3),
        ((96, 32, 64), 8, 3 * 1 * 2),
    ],
)
def test_unest_keeps_the_windows_size(img_size, patch_size, num_blocks_tokens):
    network = build(img_size, patch_size=patch_size).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 2, *img_size)).shape == (1, 3, *img_size)
    # oracle by hand: 64, 8 and 1 blocks of the tokens along each side, sides / (4 * patch_size)
    shapes = [tuple(level.pos_embed.shape) for level in network.nestViT.levels]
    assert shapes == [(1, blocks, num_blocks_tokens, dim) for blocks, dim in ((64, 8), (8, 12), (1, 16))]


def test_unest_halves_only_even_sides_of_a_block():
    network = build(HIPPOCAMPUS)  # blocks of 3 x 4 x 3 tokens
    assert network.encoder10.conv.stride == network.decoder5.transp_conv.conv.stride == (1, 2, 1)


def test_unest_gives_every_parameter_a_gradient():
    network = build(drop_path_rate=0.0)
    network(torch.randn(2, 2, 16, 32, 48)).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def test_unest_gradient_does_not_leak_between_samples(network):
    x = torch.randn(2, 2, 16, 32, 48, requires_grad=True)
    copy.deepcopy(network).eval()(x)[0].sum().backward()
    assert x.grad[0].abs().sum() > 0 and x.grad[1].abs().sum() == 0


def test_unest_learns_a_toy_task():
    network = build(drop_path_rate=0.1)
    x = torch.randn(2, 2, 16, 32, 48)
    label = (nn.functional.avg_pool3d(x[:, 0], 3, 1, 1) > 0).long()  # a smoothed sign: needs the neighbours
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-2)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(network(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # oracle by hand: ln 2 is the loss of answering both classes alike
    assert losses[-1] < 0.8 * math.log(2) < losses[0]


def test_block_attention_is_that_of_torch_with_the_heads_interleaved():
    torch.manual_seed(0)
    attention = BlockAttention(12, num_heads=3).double()
    x = torch.randn(2, 4, 5, 12, dtype=torch.float64)
    # oracle: nn.MultiheadAttention on each block, its output projection's columns put in upstream's order
    oracle = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        oracle.in_proj_weight.copy_(attention.qkv.weight)
        oracle.in_proj_bias.copy_(attention.qkv.bias)
        oracle.out_proj.weight.copy_(attention.proj.weight.reshape(12, 4, 3).transpose(1, 2).reshape(12, 12))
        oracle.out_proj.bias.copy_(attention.proj.bias)
        tokens = x.flatten(0, 1)
        expected = oracle(tokens, tokens, tokens, need_weights=False)[0].reshape(x.shape)
        torch.testing.assert_close(attention(x), expected)


def test_nest_level_shows_each_layer_the_blocks_of_the_volume():
    seen = []

    class Record(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    level = NestLevel([Record()], 1, num_blocks=8, block_size=(1, 2, 3), pool=nn.Identity())
    x = torch.arange(2 * 4 * 6.0).reshape(1, 1, 2, 4, 6)
    assert torch.equal(level(x), x)
    # oracle by hand: the second block is the next one along the last axis, rows and columns of its own
    assert seen[0].shape == (1, 8, 6, 1)
    assert torch.equal(seen[0][0, 1, :, 0], x[0, 0, 0, 0:2, 3:6].flatten())
    assert torch.equal(seen[0][0, 4, :, 0], x[0, 0, 1, 0:2, 0:3].flatten())


def test_transformer_layer_drops_paths_of_whole_samples():
    torch.manual_seed(0)
    layer = TransformerLayer(4, num_heads=2, drop_path=0.5)
    x = torch.randn(64, 3, 2, 4)
    with torch.no_grad():
        changed = (layer(x) != x).flatten(2).any(2)  # (sample, block)
        assert torch.equal(changed.any(1), changed.all(1))
        assert 0 < changed.any(1).sum() < 64  # oracle by hand: both paths of a sample drop in one of four
        assert torch.equal(layer.eval()(x), layer(x))


def test_unest_stochastic_depth_rises_linearly(network):
    rates = [layer.drop_path.drop_prob for level in network.nestViT.levels for layer in level.transformer_encoder]
    assert rates == pytest.approx([0, 0.5 / 3, 1 / 3, 0.5])  # oracle by hand: four layers


def test_unest_copies_traces_and_exports(network, image):
    network = copy.deepcopy(network).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the check of the input's size
        expected = network(image)
        traced = torch.jit.trace(network, image, check_trace=False)
        exported = torch.export.export(network, (image,)).module()
        torch.testing.assert_close(traced(image), expected)
        torch.testing.assert_close(exported(image), expected)


def test_unest_runs_under_bfloat16_autocast(network, image):
    network = copy.deepcopy(network).eval()
    with torch.no_grad():
        expected = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(image).float()
    # oracle: float32; bfloat16 keeps 8 bits
    assert (output - expected).square().mean().sqrt() < 0.05 * expected.std()


def test_unest_computes_with_its_weights_in_layers_only(network):
    holders = {type(m).__name__ for m in network.modules() if list(m.parameters(recurse=False))}
    assert holders == {"Conv3d", "ConvTranspose3d", "Linear", "LayerNorm", "PReLU", "NestLevel"}
    direct = {name for m in network.modules() if isinstance(m, NestLevel) for name, _ in m.named_parameters("", False)}
    assert direct == {"pos_embed"}


def test_unest_refuses_arguments_that_do_not_fit():
    for arguments, message in [
        (
            {"img_size": (48, 60, 48)},
            r"three multiples of 16 \(patch_size 4 x 4 blocks .*: 16, 32, .*got \(48, 60, 48\)",
        ),
        ({"img_size": (48, 48)}, r"three multiples of 16 .*got \(48, 48\)"),
        ({"img_size": (48, 48, 0)}, r"three multiples of 16 .*got \(48, 48, 0\)"),
        ({"img_size": (48, 48, 48), "patch_size": 8}, r"three multiples of 32 \(patch_size 8"),
        ({"img_size": (32, 32, 32)}, r"leaves one voxel .* one side at least 48, or patch_size smaller than 4"),
    ]:
        with pytest.raises(InputError, match=message):
            build(**arguments)


def test_unest_refuses_another_input(network):
    for shape in [(1, 2, 16, 32, 32), (1, 1, 16, 32, 48), (2, 16, 32, 48)]:
        with pytest.raises(InputError, match=r"built for inputs \(B, 2, 16, 32, 48\), got .*roi_size of the sliding"):
            network(torch.zeros(shape))
