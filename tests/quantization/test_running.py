from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from mqb_monai.quantization.running import follow_modules


@pytest.fixture
def network():
    inner = nn.Sequential(nn.ReLU(), nn.Flatten())
    return nn.Sequential(inner, nn.Linear(4, 2), inner)


def events_of(network, x):
    events = []
    with follow_modules(network, events.append, events.append):
        network(x)
    return events


def test_follow_modules_by_hand(network):
    inner = ["0", "0.0", True, "0.1", True, True]  # a module that is called twice goes by its first name
    assert events_of(network, torch.ones(1, 4)) == [*inner, "1", True, *inner]


def test_follow_modules_leaves_what_raised_and_no_hooks(network):
    events = []
    with pytest.raises(RuntimeError), follow_modules(network, events.append, events.append):
        network(torch.ones(1, 3))
    assert events[-2:] == ["1", False]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_follow_modules_does_not_hear_of_other_threads(network):
    events = []
    with follow_modules(network, events.append, events.append), ThreadPoolExecutor(1) as pool:
        pool.submit(network, torch.ones(1, 4)).result()
    assert events == []
