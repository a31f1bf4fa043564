from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.weights.file import read_weights
from mqb_monai.weights.state_dict import load_weights, save_weights


class Aliased(nn.Module):
    """One convolution under two names, a batch norm with an integer counter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 64, 3)
        self.all_modules = nn.ModuleList([self.conv])
        self.norm = nn.BatchNorm3d(64)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Aliased()


@pytest.fixture
def path(network, tmp_path):
    save_weights(network, tmp_path / "models" / "model.pt")
    return tmp_path / "models" / "model.pt"


def test_save_weights_round_trip_is_that_of_fp16(network, path):
    loaded = load_weights(Aliased(), path).state_dict()
    for name, tensor in network.state_dict().items():  # oracle: torch's own cast to float16 and back
        expected = tensor.half().float() if tensor.is_floating_point() else tensor
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], expected)
    stored = read_weights(path).state
    assert stored["conv.weight"].dtype == torch.float16
    assert stored["norm.num_batches_tracked"].dtype == torch.int64


def test_save_weights_leaves_the_network_as_it_was(network, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_weights(network, tmp_path / "a.pt")
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name])


def test_save_weights_stores_aliased_tensors_once(network, path):
    size = 2 * (network.conv.weight.numel() + network.conv.bias.numel())  # oracle: two bytes for each number, once
    assert size < path.stat().st_size < size + 8192
    stored = read_weights(path).state
    assert stored["conv.weight"].data_ptr() == stored["all_modules.0.weight"].data_ptr()


def test_save_weights_in_fp32_is_exact(network, tmp_path):
    save_weights(network, tmp_path / "a.pt", dtype=torch.float32)
    loaded = load_weights(Aliased(), tmp_path / "a.pt").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX's")
def test_save_weights_on_a_full_disk_is_one_sentence_and_keeps_the_old_file(network, path):
    import resource

    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))  # Python ignores SIGXFSZ: writing on raises OSError
    try:
        with pytest.raises(InputError, match=r"could not write .*model\.pt"):
            save_weights(network, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and os.listdir(path.parent) == ["model.pt"]


def changed(path, **changes):
    """Rewrite the file with entries replaced, or removed where None."""
    state = {name.replace("__", "."): value for name, value in changes.items()}
    state = {**torch.load(path, weights_only=True), **state}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)


def test_load_weights_names_missing_unexpected_and_misshapen_keys(path):
    changed(path, norm__bias=None, head__weight=torch.zeros(1), norm__weight=torch.zeros(3))
    with pytest.raises(InputError) as caught:
        load_weights(Aliased(), path)
    for part in (
        "1 missing (norm.bias)",
        "1 unexpected (head.weight)",
        "norm.weight: expected (64,), got (3,)",
        str(path),
        "take the checkpoint of this bundle's size",
    ):
        assert part in str(caught.value)


def test_load_weights_names_a_tensor_that_is_not_finite(network, path):
    for value in [float("nan"), float("inf")]:
        changed(path, norm__bias=torch.full((64,), value))
        fresh = Aliased()
        before = fresh.norm.bias.clone()
        with pytest.raises(InputError, match=r"model\.pt: tensor 'norm\.bias' holds NaN or infinite"):
            load_weights(fresh, path)
        assert torch.equal(fresh.norm.bias, before)


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def test_load_weights_finds_the_state_dict(network, tmp_path):
    for wrapper in [(), ("model",), ("of_the_loader",), ("net", "model", "state_dict"), ("generator",)]:
        content = network.state_dict()
        for name in reversed(wrapper):
            content = {
                name: content,
                "epoch": 3,
                "best_acc": np.float64(0.9),
                "optimizer": {"state": {0: torch.zeros(1)}},
            }
        torch.save(content, tmp_path / "a.pt")
        assert equal(load_weights(Aliased(), tmp_path / "a.pt", ["of_the_loader"]), network)


def test_load_weights_takes_a_prefix_off_and_says_what_stands_beside_it(network, tmp_path, capsys):
    for prefix in ["_orig_mod.module.", "model.", "net._orig_mod.", "a.module.b."]:
        state = prefixed(network.state_dict(), prefix) | {"loss.class_weight": torch.ones(2)}
        torch.save({"state_dict": state, "pytorch-lightning_version": "2.5.0"}, tmp_path / "a.ckpt")
        assert equal(load_weights(Aliased(), tmp_path / "a.ckpt"), network)
        assert (
            f"left out loss.class_weight (beside the network, whose names begin with '{prefix}')."
            in capsys.readouterr().err
        )


def test_load_weights_casts_other_floats(network, tmp_path):
    for dtype in [torch.bfloat16, torch.float16, torch.float64]:
        save_weights(network, tmp_path / "a.pt", dtype)
        expected = network.conv.weight.to(dtype).float()  # oracle: torch's own casts
        assert torch.equal(load_weights(Aliased(), tmp_path / "a.pt").conv.weight, expected)


def test_load_weights_refuses_other_than_floats_by_name(network, tmp_path):
    for dtype in [torch.int8, torch.int64, torch.bool, torch.complex64]:
        state = {name: (100 * tensor).to(dtype) for name, tensor in network.state_dict().items()}
        torch.save(state, tmp_path / "a.pt")
        plain = str(dtype).removeprefix("torch.")
        with pytest.raises(InputError, match=rf"a\.pt: tensor 'conv\.weight' is {plain}, .*quantized state dict"):
            load_weights(Aliased(), tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch gives these tensors up
def test_load_weights_refuses_torch_s_own_quantized_tensors(network, tmp_path):
    weight = torch.quantize_per_tensor(network.conv.weight.detach(), 0.1, 0, torch.qint8)
    torch.save(network.state_dict() | {"conv.weight": weight}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"tensor 'conv\.weight' is qint8"):
        load_weights(Aliased(), tmp_path / "a.pt")


def test_load_weights_refuses_what_only_overflows_in_the_network_s_dtype(network, tmp_path):
    state = network.state_dict() | {"norm.bias": torch.full((64,), 1e300, dtype=torch.float64)}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"'norm\.bias' holds NaN or infinite values as float32"):
        load_weights(Aliased(), tmp_path / "a.pt")


def test_load_weights_reads_safetensors_and_fills_its_aliases(network, tmp_path):
    """safetensors refuses a tensor under two names, so its writers keep one."""
    save_file = pytest.importorskip("safetensors.torch").save_file
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("all_modules")}
    save_file(state, tmp_path / "weights.bin")
    assert equal(load_weights(Aliased(), tmp_path / "weights.bin"), network)


def test_load_weights_goes_without_the_counter_that_old_torch_did_not_write(network, tmp_path):
    state = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "a.pt")
    assert equal(load_weights(Aliased(), tmp_path / "a.pt"), network)


def equal(a, b) -> bool:
    states = a.state_dict(), b.state_dict()
    return all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
