from __future__ import annotations

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.weights.names import alias_groups, floating_dtype, map_weights


def plain_conv_unet(features=(2, 3), num_classes=2):
    return PlainConvUNet(
        1, len(features), list(features), nn.Conv3d, 3, [1, 2], 1, num_classes, 1, conv_bias=True, nonlin=nn.LeakyReLU
    )


class Backbone(nn.Module):
    """A network that has a ``backbone.`` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv3d(1, 2, 1)


class Block(nn.Module):
    """The layers of MONAI's ViT block that matter here."""

    def __init__(self, with_cross_attention: bool = False) -> None:
        super().__init__()
        self.norm_cross_attn = nn.LayerNorm(2)
        if with_cross_attention:
            self.cross_attn = nn.Linear(2, 2)


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def test_map_weights_takes_prefixes_off():
    for prefix in ["", "module.", "backbone.", "module.backbone.", "module._orig_mod.module.", "network."]:
        network = nn.Conv3d(1, 2, 1)
        mapped = map_weights(prefixed(network.state_dict(), prefix), network, "a.pt")
        assert list(mapped.state) == ["weight", "bias"]
        assert mapped.prefix == prefix


def test_map_weights_leaves_a_prefix_that_is_the_network_s_own():
    network = Backbone()
    assert map_weights(network.state_dict(), network, "a.pt").prefix == ""
    mapped = map_weights(prefixed(network.state_dict(), "module."), network, "a.pt")
    assert mapped.prefix == "module." and "backbone.weight" in mapped.state


def test_map_weights_refuses_two_tensors_for_one_name():
    network = nn.Conv3d(1, 2, 1)
    state = network.state_dict()
    with pytest.raises(InputError, match=r"two tensors for 'weight' \('module\.weight' is one"):
        map_weights(state | prefixed(state, "module."), network, "a.pt")


def test_alias_groups_of_nnunet():
    groups = alias_groups(plain_conv_unet().state_dict(keep_vars=True))
    wanted = {  # oracle: dynamic_network_architectures registers a conv twice, and the encoder below the decoder again
        prefix + f"encoder.stages.0.0.convs.0.{name}.weight"
        for prefix in ("", "decoder.")
        for name in ("conv", "all_modules.0")
    }
    assert wanted in [set(group) for group in groups]


@pytest.mark.parametrize("kept", ["first", "last"])
def test_map_weights_fills_nnunet_s_aliases(kept):
    network, trained = plain_conv_unet(), plain_conv_unet()
    state, groups = trained.state_dict(), alias_groups(trained.state_dict(keep_vars=True))
    dropped = {name for group in groups for name in (group[1:] if kept == "first" else group[:-1])}
    mapped = map_weights({k: v for k, v in state.items() if k not in dropped}, network, "a.pth")
    assert set(mapped.aliases) == dropped and len(dropped) > 10
    network.load_state_dict(mapped.state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_map_weights_refuses_aliases_that_differ():
    network = plain_conv_unet()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["encoder.stages.0.0.convs.0.all_modules.0.bias"] += 1
    with pytest.raises(InputError, match=r"convs\.0\.conv\.bias' and '.*all_modules\.0\.bias' are one tensor in the n"):
        map_weights(state, network, "a.pth")


def test_map_weights_leaves_an_auxiliary_head_out_by_name():
    for prefix in ["", "module."]:
        network = nn.ModuleDict({"outc": nn.Conv3d(1, 2, 1)})
        state = network.state_dict() | {"aux_out.weight": torch.zeros(2, 1), "aux_out.bias": torch.zeros(2)}
        mapped = map_weights(prefixed(state, prefix), network, "a.pth")
        assert set(mapped.left_out) == {"aux_out.weight", "aux_out.bias"}
        assert all("MedFormer's auxiliary head" in reason for reason in mapped.left_out.values())
        assert set(mapped.state) == {"outc.weight", "outc.bias"}


def test_map_weights_keeps_an_auxiliary_head_that_the_network_has():
    network = nn.ModuleDict({"aux_out": nn.Conv3d(1, 2, 1)})
    mapped = map_weights(network.state_dict(), network, "a.pth")
    assert set(mapped.state) == {"aux_out.weight", "aux_out.bias"} and not mapped.left_out


def test_map_weights_refuses_what_no_list_names():
    network = nn.Conv3d(1, 2, 1)
    with pytest.raises(InputError, match=r"1 unexpected \(rotation_head.weight\)"):
        map_weights(network.state_dict() | {"rotation_head.weight": torch.zeros(1)}, network, "a.pt")


def test_map_weights_takes_vit_weights_from_before_cross_attention():
    network = nn.ModuleDict({"block": Block(), "patch_embedding": nn.Linear(1, 1)})
    network["block"].norm_cross_attn.weight.data.fill_(3)
    state = {name: tensor for name, tensor in network.state_dict().items() if "cross" not in name}
    mapped = map_weights(state | {"vit.patch_embedding.cls_token": torch.zeros(1, 1, 2)}, network, "unetr.pth")
    assert mapped.kept == ("block.norm_cross_attn.weight", "block.norm_cross_attn.bias")
    assert torch.equal(mapped.state["block.norm_cross_attn.weight"], torch.full((2,), 3.0))
    assert list(mapped.left_out) == ["vit.patch_embedding.cls_token"]


def test_map_weights_demands_the_norm_of_a_block_that_reads_it():
    network = nn.ModuleDict({"block": Block(with_cross_attention=True)})
    state = {name: tensor for name, tensor in network.state_dict().items() if "norm" not in name}
    with pytest.raises(InputError, match=r"2 missing \(block.norm_cross_attn.weight"):
        map_weights(state, network, "a.pt")


def test_map_weights_names_the_sizes_of_another_size_of_the_family():
    small, large = plain_conv_unet((2, 3)), plain_conv_unet((4, 6))
    with pytest.raises(InputError) as caught:
        map_weights(large.state_dict(), small, "large.pth")
    count = sum(p.numel() for p in large.parameters()), sum(p.numel() for p in small.parameters())  # each once
    for part in (
        f"large.pth does not fit the network: it holds {count[0]:,} numbers in",
        f"the network {count[1]:,} numbers in 10 tensors",
        "encoder.stages.0.0.convs.0.conv.weight: expected (2, 1, 3, 3, 3), got (4, 1, 3, 3, 3)",
        "another size, or another number of classes, of the same family",
    ):
        assert part in str(caught.value)


def test_map_weights_names_a_deeper_network_s_layers():
    """As STU-Net-L into B: the names of the small one, and more."""
    small = nn.Sequential(nn.Conv3d(1, 2, 1))
    large = nn.Sequential(nn.Conv3d(1, 4, 1), nn.Conv3d(4, 4, 1), nn.Conv3d(4, 4, 1))
    with pytest.raises(InputError, match=r"2 of another shape .*; 4 unexpected \(1.weight, 1.bias, 2.weight, ...\)"):
        map_weights(large.state_dict(), small, "large.pth")


def test_map_weights_tells_another_network():
    with pytest.raises(InputError, match="looks like the checkpoint of another network"):
        map_weights({"a": torch.zeros(1), "b": torch.zeros(1)}, nn.Conv3d(1, 2, 1), "a.pt")


def test_map_weights_changes_neither_the_state_nor_the_network():
    network = plain_conv_unet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = prefixed(plain_conv_unet().state_dict(), "module.")
    names = list(state)
    map_weights(state, network, "a.pth")
    assert list(state) == names
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_floating_dtype_keeps_numbers_as_published():
    for dtypes, expected in [
        ([torch.float16, torch.int64], torch.float16),
        ([torch.float32, torch.float16], torch.float32),
        ([torch.float32], torch.float32),
        ([torch.bfloat16], torch.float32),
        ([torch.float64], torch.float32),
        ([torch.int64], torch.float32),
    ]:
        state = {str(number): torch.zeros(1, dtype=dtype) for number, dtype in enumerate(dtypes)}
        assert floating_dtype(state) == expected


def test_map_weights_leaves_a_loss_beside_the_prefix_out_by_name():
    network = nn.Conv3d(1, 2, 1)
    state = prefixed(network.state_dict(), "net.") | {"criterion.ce.weight": torch.ones(2)}
    mapped = map_weights(state, network, "a.ckpt")
    assert mapped.prefix == "net." and list(mapped.left_out) == ["criterion.ce.weight"]


def test_map_weights_takes_wrappers_inside_a_name_out():
    """A compiled encoder in a plain network, and FSDP round each block."""
    network = nn.ModuleDict({"encoder": nn.Conv3d(1, 2, 1), "head": nn.Conv3d(2, 2, 1)})
    state = {name.replace("encoder.", "encoder._orig_mod."): tensor for name, tensor in network.state_dict().items()}
    state = {name.replace("head.", "head._fsdp_wrapped_module."): tensor for name, tensor in state.items()}
    assert set(map_weights(state, network, "a.pt").state) == set(network.state_dict())


def test_map_weights_refuses_a_network_and_its_averaged_copy():
    network = nn.Conv3d(1, 2, 1)
    state = prefixed(network.state_dict(), "model.") | prefixed(network.state_dict(), "ema.module.")
    with pytest.raises(InputError, match=r"two tensors for 'weight' \('ema.module.weight' is one\)"):
        map_weights(state, network, "a.ckpt")


def test_map_weights_refuses_tensors_without_values():
    network = nn.Conv3d(1, 2, 1)
    with pytest.raises(InputError, match=r"tensor 'weight' has a shape but no values \(device meta\)"):
        map_weights({name: tensor.to("meta") for name, tensor in network.state_dict().items()}, network, "a.pt")
