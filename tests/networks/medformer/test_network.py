from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.blocks import ChannelSELayer
from torch import nn
from torch.nn import functional as F

from mqb_monai.errors import InputError
from mqb_monai.networks.medformer.attention import BidirectionalAttention
from mqb_monai.networks.medformer.blocks import PatchMerging, SqueezeExcitation
from mqb_monai.networks.medformer.network import MedFormer
from mqb_monai.quantization import find_layers

SMALL = {
    "out_channels": 3,
    "stem_features": 4,
    "features": (8, 12, 16, 16, 16, 12, 8, 4),
    "num_conv_blocks": (1, 0, 1, 0, 1, 0, 1, 1),
    "num_attention_blocks": (0, 1, 1, 2, 1, 2, 0, 0),
    "num_heads": (1, 2, 2, 4, 2, 3, 1, 1),
    "kernel_size": ((1, 3, 3), *[(3, 3, 3)] * 4),
    "strides": ((1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1)),
    "map_size": (2, 3, 2),
    "fusion_depth": 1,
    "fusion_features": 16,
    "fusion_heads": 4,
}
SHAPE = (2, 1, 8, 24, 16)


def small(**changes) -> MedFormer:
    torch.manual_seed(0)
    return MedFormer(**{**SMALL, **changes})


def image() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_medformer_keeps_the_size_of_an_image_that_is_no_cube():
    assert small()(image()).shape == (2, 3, 8, 24, 16)
    assert small(in_channels=2)(torch.randn(1, 2, 4, 16, 8)).shape == (1, 3, 4, 16, 8)


@torch.no_grad()
def test_medformer_treats_each_image_of_a_batch_by_itself():
    network, x = small(), image()
    torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("auxiliary_outputs", "parameters"), [(False, 36_667_374), (True, 36_669_180)])
def test_medformer_has_the_published_size_by_default(auxiliary_outputs, parameters):
    """Oracle: the parameter counts of the released network."""
    with torch.device("meta"):
        network = MedFormer(auxiliary_outputs=auxiliary_outputs)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@torch.no_grad()
def test_medformer_gives_the_auxiliary_output_in_training_only():
    network, plain = small(auxiliary_outputs=True), small()
    assert network.state_dict().keys() - plain.state_dict().keys() == {"aux_out.weight", "aux_out.bias"}
    outputs = network.train()(image())
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 8, 24, 16)] * 2
    assert torch.equal(outputs[0], network.eval()(image()))


def test_medformer_sends_a_gradient_to_every_parameter():
    network = small(auxiliary_outputs=True).train()
    output, auxiliary = network(image())
    (output.square().mean() + auxiliary.square().mean()).backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not missing


def test_medformer_learns_which_half_of_an_image_is_brighter():
    network, x = small(), image()[:1]
    x[..., 8:] += 2
    target = torch.zeros(1, *SHAPE[2:], dtype=torch.long)
    target[..., 8:] = 1
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(network(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_medformer_keeps_all_matrix_weights_in_layers_that_can_be_quantized():
    network = small()
    layers = find_layers(network)
    assert all(layer.reason_unsupported is None for layer in layers)
    inside = {id(p) for layer in layers for p in layer.module.parameters()}
    inside |= {id(p) for module in network.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    assert [name for name, p in network.named_parameters() if id(p) not in inside] == []


@torch.no_grad()
def test_medformer_runs_every_layer_once():
    network, calls = small().eval(), []
    for layer in find_layers(network):
        layer.module.register_forward_hook(lambda *_, name=layer.name: calls.append(name))
    network(image())
    assert sorted(calls) == sorted(layer.name for layer in find_layers(network))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning:torch")  # torch's own checks; ours must not be traced
def test_medformer_can_be_traced_and_copied():
    network, x = small().eval(), image()
    expected = network(x)
    torch.testing.assert_close(torch.jit.trace(network, x, check_trace=False)(x), expected)
    torch.testing.assert_close(copy.deepcopy(network)(x), expected)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")
def test_medformer_can_be_exported():
    network = small(num_attention_blocks=(0, 1, 1, 1, 1, 1, 0, 0), num_conv_blocks=(0, 0, 0, 0, 0, 0, 1, 1)).eval()
    exported = torch.export.export(network, (image(),)).module()
    torch.testing.assert_close(exported(image()), network(image()))


@torch.no_grad()
def test_medformer_runs_under_bfloat16_autocast():
    network, x = small().eval(), image()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x)
    assert output.dtype == torch.bfloat16
    assert (output - network(x)).square().mean().sqrt() < 0.1 * network(x).std()


def test_medformer_refuses_an_image_that_it_cannot_take():
    for shape in [(1, 1, 8, 24, 12), (1, 2, 8, 24, 16), (1, 8, 24, 16), (1, 1, 4, 8, 8)]:
        with pytest.raises(InputError, match=r"\(B, 1, H, W, D\) with H, W, D multiples of 4, 8, 8 .* got \(1, "):
            small()(torch.zeros(shape))


@torch.no_grad()
def test_bidirectional_attention_reads_one_matrix_both_ways():
    """Oracle: torch's scaled_dot_product_attention, once from features to map and once back."""
    block = BidirectionalAttention(4, 6, (3, 3, 3), num_heads=3, updates_map=True)
    features, semantic_map = torch.randn(2, 4, 2, 3, 4), torch.randn(2, 6, 1, 2, 2)
    attended, update = block(features, semantic_map)

    def heads(x):  # (B, 6, ...) to (B, 3, tokens, 2), head 0 being channels 0 and 3
        return torch.stack([x[:, head::3].flatten(2).transpose(1, 2) for head in range(3)], dim=1)

    feature_queries, feature_values = map(heads, block.feat_qv(features).chunk(2, dim=1))
    map_queries, map_values = map(heads, block.map_qv(semantic_map).chunk(2, dim=1))
    expected = torch.empty(2, 6, 2, 3, 4)
    expected_update = torch.empty(2, 6, 1, 2, 2)
    to_features = F.scaled_dot_product_attention(feature_queries, map_queries, map_values)
    to_map = F.scaled_dot_product_attention(map_queries, feature_queries, feature_values)
    for head in range(3):
        expected[:, head::3] = to_features[:, head].transpose(1, 2).reshape(2, 2, 2, 3, 4)
        expected_update[:, head::3] = to_map[:, head].transpose(1, 2).reshape(2, 2, 1, 2, 2)
    torch.testing.assert_close(attended, block.feat_out(expected))
    torch.testing.assert_close(update, block.map_out(expected_update))


@torch.no_grad()
def test_squeeze_excitation_equals_monais():
    """Oracle: MONAI's ChannelSELayer with the same weights."""
    ours, theirs = SqueezeExcitation(8), ChannelSELayer(3, 8, r=4)
    for linear, conv in zip(theirs.fc[::2], ours.excitation[:3:2], strict=True):
        linear.weight.copy_(conv.weight.flatten(1))
        linear.bias.copy_(conv.bias)
    x = torch.randn(2, 8, 3, 4, 5)
    torch.testing.assert_close(ours(x), theirs(x))


@torch.no_grad()
def test_patch_merging_puts_the_voxels_of_a_patch_in_c_order():
    """Oracle: by hand, a 1x2x2 image of one channel and one patch, norm and reduction taken out."""
    merging = PatchMerging(1, 4, (1, 1, 1), (1, 2, 2))
    merging.norm = merging.reduction = nn.Identity()
    x = torch.tensor([[[[[1.0, 2.0], [3.0, 4.0]]]]])
    assert merging(x).flatten().tolist() == [1.0, 2.0, 3.0, 4.0]
