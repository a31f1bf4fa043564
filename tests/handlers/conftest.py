"""A tiny network, and Ignite engines that yield what a test hands them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

with warnings.catch_warnings():  # torch 2.13 deprecates torch.jit.script, which ignite's imports bring in
    warnings.filterwarnings("ignore", message=r".torch\.jit.*deprecated", category=DeprecationWarning)
    from ignite.engine import Engine


class TinyNet(nn.Module):
    """Two convolutions; ``(B, 1, H, W, D) -> (B, 3, H, W, D)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.act = nn.LeakyReLU()
        self.head = nn.Conv3d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.first(x)))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return TinyNet().eval()


@pytest.fixture
def echo_engine() -> Engine:
    """An engine whose output is the batch itself."""
    return Engine(lambda engine, batch: batch)
