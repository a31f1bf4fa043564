from __future__ import annotations

import os
import sys

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.weights.state_dict import load_weights, read_state_dict, save_weights


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
    stored = read_state_dict(path)
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
    stored = read_state_dict(path)
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
    changed(path, conv__bias=None, head__weight=torch.zeros(1), norm__weight=torch.zeros(3))
    with pytest.raises(InputError) as caught:
        load_weights(Aliased(), path)
    for part in (
        "missing: conv.bias",
        "unexpected: head.weight",
        "norm.weight: expected (64,), got (3,)",
        str(path),
        "Take the weights that were trained with this network_def",
    ):
        assert part in str(caught.value)


def test_load_weights_names_six_problems_and_counts_the_rest(path):
    with pytest.raises(InputError, match=r"; and 12 more\)"):  # oracle: 9 names each way, 6 shown
        load_weights(nn.ModuleDict({"a": nn.BatchNorm3d(2), "b": nn.Conv3d(1, 1, 1), "c": nn.Conv3d(1, 1, 1)}), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_load_weights_names_a_tensor_that_is_not_finite(network, path, value):
    changed(path, norm__bias=torch.full((64,), value))
    fresh = Aliased()
    before = fresh.norm.bias.clone()
    with pytest.raises(InputError, match=r"model\.pt: tensor 'norm\.bias' holds NaN or infinite"):
        load_weights(fresh, path)
    assert torch.equal(fresh.norm.bias, before)


def test_read_state_dict_names_an_absent_file(tmp_path):
    with pytest.raises(InputError, match=r"no weights at .*model\.pt.*Train the bundle or copy"):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.parametrize("length", [0, 3, 100, 0.5, -1])
def test_read_state_dict_refuses_a_truncated_file(path, length):
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
    with pytest.raises(InputError, match=r"model\.pt .*(cannot be read as weights|no tensor file)"):
        read_state_dict(path)


class Planted:
    """Unpickling it would make a file."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_read_state_dict_never_unpickles_objects(tmp_path):
    torch.save({"weight": torch.zeros(1), "object": Planted(tmp_path / "planted")}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="holds pickled objects, which are never unpickled here") as caught:
        read_state_dict(tmp_path / "model.pt")
    assert not (tmp_path / "planted").exists()
    assert "weights_only=False" not in str(caught.value)


@pytest.mark.parametrize("content", [torch.zeros(2), [torch.zeros(2)], {"epoch": 3}])
def test_read_state_dict_refuses_what_is_no_mapping_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"does not hold a state dict: expected a mapping of names to tensors"):
        read_state_dict(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "content", [b"", b"hello world", b"404: Not Found", b"<html></html>", b"version https://git-lfs"]
)
def test_read_checkpoint_calls_a_failed_download_by_its_name(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as weights \(truncated, .*not written by torch\.save\)\. C"):
        read_state_dict(path)


def test_read_checkpoint_says_that_a_file_may_not_be_read(path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", forbidden)  # root may read whatever the permissions say
    with pytest.raises(InputError, match=r"model\.pt may not be read: its permissions forbid it"):
        read_state_dict(path)
