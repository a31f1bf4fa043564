from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from mqb_monai.analysis.lockstep import Lockstep
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantized_layers


def record_of(network, layers, x):
    """Oracle: the network alone, every layer's input and output kept."""
    kept, handles = [], []
    for name in layers:
        module = network.get_submodule(name)
        handles.append(module.register_forward_pre_hook(lambda _, args, n=name: kept.append((n, "input", args[0] + 0))))
        handles.append(module.register_forward_hook(lambda *args, n=name: kept.append((n, "output", args[2] + 0))))
    with torch.no_grad():
        output = network(x)
    for handle in handles:
        handle.remove()
    return output, kept


def test_lockstep_meets_at_every_layer_with_both_tensors(tricky, x):
    network, quantized = tricky
    layers = list(quantized_layers(quantized))
    met = []
    lockstep = Lockstep(network, quantized, layers, lambda _, *rest: met.append((*rest[:2], rest[2] + 0, rest[3] + 0)))
    output = lockstep(x)
    _, floats = record_of(network, layers, x)
    expected, others = record_of(quantized, layers, x)
    assert torch.equal(output, expected)
    assert [place[:2] for place in met] == [place[:2] for place in floats]
    for (_, _, reference, other), (*_, f), (*_, q) in zip(met, floats, others, strict=True):
        assert torch.equal(reference, f) and torch.equal(other, q)


def test_lockstep_removes_its_hooks_and_ends_its_thread(tricky, x):
    network, quantized = tricky
    before = threading.active_count()
    Lockstep(network, quantized, ["head"], lambda *_: None)(x)
    assert threading.active_count() == before
    assert not [m for net in tricky for m in net.modules() if m._forward_hooks or m._forward_pre_hooks]


@pytest.mark.parametrize("place", ["meet", "reference", "other"])
def test_lockstep_lets_an_error_out_wherever_it_happens(tricky, x, place):
    def fail(*_):
        raise KeyError("stopped")

    network, quantized = tricky
    if place != "meet":
        {"reference": network, "other": quantized}[place].branches.register_forward_pre_hook(fail)
    before = threading.active_count()
    lockstep = Lockstep(network, quantized, ["stem.0", "head"], fail if place == "meet" else lambda *_: None)
    with pytest.raises(KeyError, match="stopped"):
        lockstep(x)
    assert threading.active_count() == before


class Skips(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.a, self.b, self.order = nn.Identity(), nn.Identity(), order

    def forward(self, x):
        for name in self.order:
            x = getattr(self, name)(x)
        return x


@pytest.mark.parametrize(
    ("reference", "other", "message"),
    [
        ("ab", "ba", "input of a in the float one, input of b in the quantized one"),
        ("a", "ab", "the end of no layer in the float one, input of b"),
        ("ab", "a", "input of b in the float one, the end of no layer"),
    ],
)
def test_lockstep_refuses_networks_that_run_differently(reference, other, message):
    with pytest.raises(InputError, match=message):
        Lockstep(Skips(reference), Skips(other), ["a", "b"], lambda *_: None)(torch.zeros(1))
