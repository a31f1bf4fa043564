from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mqb_monai.analysis.replay import ReplayedNetwork
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize, quantized_layers
from mqb_monai.quantization.layers import find_layers


def swapped(network, quantized, names):
    """The float network with the layers ``names`` replaced: what replaying must equal."""
    network = copy.deepcopy(network)
    twins = quantized_layers(quantized)
    for layer in find_layers(network):
        for name in layer.names if layer.name in names else ():
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, twins[layer.name])
    return network.eval()


def subsets(layers):
    return [(), *((name,) for name in layers), tuple(layers), tuple(layers[1:])]


@pytest.mark.parametrize("limit_mib", [2048, 0.003, 0])
def test_replayed_network_equals_a_network_with_its_layers_replaced(tricky, x, limit_mib):
    # Oracle: the same layers replaced in a copy, run in full. Bit for bit, whatever fits the memory.
    network, quantized = tricky
    for base in subsets(list(quantized_layers(quantized))):
        replayed = ReplayedNetwork(network, quantized, limit_mib)
        replayed(x, base, record=True)
        for names in subsets(replayed.layers):
            with torch.no_grad():
                assert torch.equal(replayed(x, names), swapped(network, quantized, names)(x)), (base, names)


def test_replayed_network_records_from_a_replayed_run(tricky, x):
    # Oracle: as above, for a chain in which every run becomes the base of the next.
    network, quantized = tricky
    replayed = ReplayedNetwork(network, quantized)
    names = set(replayed.layers)
    for name in ["head", "branches.left", "token", "stem.0", "branches.right"]:
        names -= {name}
        with torch.no_grad():
            assert torch.equal(replayed(x, names, record=True), swapped(network, quantized, names)(x)), name
        assert replayed.recorded == names


def test_replayed_network_of_aliased_modules_equals_the_swapped_one(nnunet, x):
    # Oracle: as above; and with every layer quantized, the quantized network itself.
    network, quantized = nnunet
    x = torch.nn.functional.pad(x, (0, 1))
    replayed = ReplayedNetwork(network, quantized)
    replayed(x, record=True)
    for names in subsets(replayed.layers):
        with torch.no_grad():
            assert torch.equal(replayed(x, names), swapped(network, quantized, names)(x))
    assert torch.equal(replayed(x, replayed.layers), quantized(x))


def test_replayed_network_computes_from_the_first_changed_layer_on(tricky, x):
    # By hand: calls are stem.0, shared, branches.left, branches.right, shared again, token, head: seven.
    replayed = ReplayedNetwork(*tricky)
    replayed(x, record=True)
    assert replayed.running_order == ("stem.0", "shared", "branches.left", "branches.right", "token", "head")
    expected = {"stem.0": 7, "shared": 6, "branches.left": 5, "branches.right": 4, "token": 2, "head": 1}
    for name, count in expected.items():
        assert replayed.count_forwards([name]) == count
        before = replayed.forwards
        replayed(x, [name])
        assert replayed.forwards - before == count, name
    assert replayed.count_forwards() == 7 and replayed.count_forwards([]) == 0


def test_replayed_network_keeps_to_its_memory(tricky, x):
    replayed = ReplayedNetwork(*tricky, limit_mib=0.01)
    replayed(x, record=True)
    kept = sum(call.num_bytes for call in replayed._tape)
    assert 0 < kept <= 0.01 * 2**20
    assert replayed.count_forwards(["head"]) > 1  # what did not fit is computed


def test_replayed_network_leaves_the_network_as_it_was(tricky, x):
    network, quantized = tricky
    before = {id(module): dict(module.__dict__) for module in network.modules()}
    replayed = ReplayedNetwork(network, quantized)
    replayed(x, ["head"], record=True)
    assert all(before[id(module)].keys() == module.__dict__.keys() for module in network.modules())


def test_replayed_network_restores_the_network_and_forgets_after_an_error(tricky, x):
    network, quantized = tricky
    replayed = ReplayedNetwork(network, quantized)
    replayed(x, record=True)
    with pytest.raises(RuntimeError):
        replayed(x[:, :0], ["stem.0"], record=True)
    assert replayed.recorded is None and "forward" not in network.stem.__dict__
    with torch.no_grad():
        assert torch.equal(replayed(x), network(x))


class ChangesItsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        x.mul_(2)
        return y


def test_replayed_network_computes_a_block_that_changes_its_input():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.block, self.head = nn.Conv3d(1, 2, 1), ChangesItsInput(), nn.Conv3d(2, 2, 1)

        def forward(self, x):
            x = self.first(x)
            return self.head(self.block(x) + x)

    torch.manual_seed(0)
    network, x = Network().eval(), torch.randn(1, 1, 3, 3, 3)
    replayed = ReplayedNetwork(network, quantize(network, "w8a8_engine", [x]).eval())
    replayed(x, record=True)
    with torch.no_grad():  # oracle: the network itself
        assert torch.equal(replayed(x), network(x))
        assert torch.equal(replayed(x, ["head"]), swapped(network, quantize(network, "w8a8_engine", [x]), ["head"])(x))


def test_replayed_network_refuses_a_float_network_and_another_one(tricky):
    network, quantized = tricky
    with pytest.raises(InputError, match="it has none at all"):
        ReplayedNetwork(network, network)
    with pytest.raises(InputError, match=r"not those of the float one: .*token"):
        ReplayedNetwork(nn.Sequential(nn.Conv3d(1, 1, 1)), quantized)
