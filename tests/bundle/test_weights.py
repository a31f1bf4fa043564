from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from mqb_monai.bundle.weights import find_weights, load_bundle_weights
from mqb_monai.errors import InputError


class Exploit:
    def __reduce__(self):
        return (exec, ("raise SystemError('unpickled')",))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "network", "of_the_loader"])
def test_load_bundle_weights_finds_the_state_dict(wrapper, path):
    trained, network = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)
    torch.save({wrapper: trained.state_dict(), "epoch": 3} if wrapper else trained.state_dict(), path)
    assert torch.equal(load_bundle_weights(network, path, ["of_the_loader"]).weight, trained.weight)


def test_load_bundle_weights_takes_a_data_parallel_network_s(path):
    trained = nn.Conv2d(1, 2, 3)
    torch.save({f"module.{name}": tensor for name, tensor in trained.state_dict().items()}, path)
    assert torch.equal(load_bundle_weights(nn.Conv2d(1, 2, 3), path).weight, trained.weight)


def test_load_bundle_weights_names_what_does_not_fit(path):
    torch.save({"weight": torch.zeros(2, 1, 5, 5), "scale": torch.zeros(1)}, path)
    with pytest.raises(InputError) as caught:
        load_bundle_weights(nn.Conv2d(1, 2, 3), path)
    for part in ("missing: bias", "unexpected: scale", "weight: expected (2, 1, 3, 3), got (2, 1, 5, 5)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Exploit(), protocol=2), "pickled objects|cannot be read"),
        (b"not weights", "cannot be read|pickled objects"),
        (b"", "cannot be read"),
    ],
)
def test_load_bundle_weights_refuses_a_file_that_holds_no_tensors(content, message, path):
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_bundle_weights(nn.Conv2d(1, 2, 3), path)


def test_load_bundle_weights_never_unpickles(path):
    torch.save({"model": Exploit()}, path)
    with pytest.raises(InputError, match="pickled objects, which are never unpickled"):
        load_bundle_weights(nn.Conv2d(1, 2, 3), path)


def test_load_bundle_weights_says_what_a_mapping_without_state_dict_holds(path):
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, path)
    with pytest.raises(InputError, match=r"holds no state dict: .*it holds the keys epoch, optimizer"):
        load_bundle_weights(nn.Conv2d(1, 2, 3), path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_load_bundle_weights_tells_a_torchscript_file(path):
    torch.jit.script(nn.Conv2d(1, 2, 3)).save(path)
    with pytest.raises(InputError, match="is a TorchScript file"):
        load_bundle_weights(nn.Conv2d(1, 2, 3), path)


def test_find_weights_says_where_the_zoo_keeps_them(tmp_path):
    (tmp_path / "large_files.yml").touch()
    with pytest.raises(InputError, match=r"models is missing or empty.*--weights FILE.*large_files\.yml says where"):
        find_weights(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.ts").touch()
    with pytest.raises(InputError, match=r"models holds model\.ts"):
        find_weights(tmp_path)
