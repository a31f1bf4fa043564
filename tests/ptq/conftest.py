"""A small network whose channels differ in range as other people's do, a scan, and a recipe's subject made of both."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.ptq.run_recipe import start
from mqb_monai.quantization import attach_observers
from mqb_monai.quantization.calibrate import inference_only


class ThreeLayers(nn.Module):
    """Three convolutions; ``(B, 1, H, W, D) -> (B, 3, H, W, D)``. The channels between them differ 100-fold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.middle = nn.Conv3d(4, 6, 3, padding=1)
        self.head = nn.Conv3d(6, 3, 1)
        with torch.no_grad():
            size = torch.tensor([1.0, 5.0, 20.0, 100.0])
            self.first.weight.mul_(size.view(-1, 1, 1, 1, 1))
            self.first.bias.mul_(size)
            self.middle.weight.div_(size.view(1, -1, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.first(x).relu()).relu())


@pytest.fixture
def network() -> nn.Module:
    """:class:`ThreeLayers`, its logits centred: every class has voxels."""
    torch.manual_seed(0)
    network = ThreeLayers().eval()
    with torch.no_grad():
        logits = network(make_scan(0))
        others = (0, 2, 3, 4)
        spread = logits.std(others)
        network.head.weight.div_(spread.view(-1, 1, 1, 1, 1) / 2)
        network.head.bias.copy_((network.head.bias - logits.mean(others)) * 2 / spread)
    return network


def make_scan(seed: int, size: int = 10, channels: int = 1) -> torch.Tensor:
    """Smooth noise ``(1, C, size, size, size)``."""
    coarse = torch.randn(1, channels, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(coarse, size=(size,) * 3, mode="trilinear")
    return smooth + 0.1 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(seed + 100))


@pytest.fixture
def scan() -> torch.Tensor:
    return make_scan(0)


@pytest.fixture
def scans() -> list[torch.Tensor]:
    return [make_scan(seed) for seed in range(4)]


@pytest.fixture
def make_subject(network, scans):
    """``make_subject(scheme, ...)``: what min-max calibration leaves to a recipe's first step."""

    def make(scheme="w8a8_engine", batches=None, net=None, seed=0, **options):
        net = network if net is None else net
        batches = scans if batches is None else batches
        with attach_observers(net, scheme, **options) as observers, inference_only(net):
            for batch in batches:
                net(batch)
            calibration = observers.finish()
        return start(net, calibration, batches, seed)

    return make


@pytest.fixture
def same_state():
    """Whether two networks have the same tensors, to the last bit."""

    def same(one: nn.Module, other: nn.Module) -> bool:
        first, second = one.state_dict(), other.state_dict()
        return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    return same


@pytest.fixture
def leftovers():
    """Attributes and hooks that something left on the modules of a network."""

    def find(network: nn.Module) -> list[str]:
        own = ("_conv_forward", "forward", "graph_weight", "fake_quantize_input")
        found = [f"{name}.{key}" for name, module in network.named_modules() for key in vars(module) if key in own]
        return found + [
            f"{name}: hook"
            for name, module in network.named_modules()
            if module._forward_pre_hooks or module._forward_hooks
        ]

    return find
