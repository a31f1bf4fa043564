"""Tests that need an NVIDIA GPU; everywhere else each is skipped with its reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends.tensorrt.libraries import missing_parts


@pytest.fixture(autouse=True)
def gpu():
    """Skip without a GPU; with one, FP32 products are FP32."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU that torch can use")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def lane(gpu):
    """Skip where the packages of requirements-tensorrt.txt are missing."""
    missing = missing_parts()
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install -r requirements-tensorrt.txt")


class SmallNet(nn.Module):
    """Every kind of layer that the collection's networks have, 16 channels wide: integer kernels want multiples."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 16, 3, padding=1), nn.InstanceNorm3d(16, affine=True))
        self.down = nn.Conv3d(16, 32, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose3d(32, 16, 2, 2)
        self.merge = nn.Conv3d(32, 16, 3, padding=1, bias=False)
        self.token = nn.Linear(16, 16)
        self.head = nn.Conv3d(16, 3, 1)
        self.act = nn.LeakyReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.first(x))
        y = self.up(self.act(self.down(x)))
        y = x + self.act(self.merge(torch.cat([x, y], dim=1)))
        return self.head(self.token(y.movedim(1, -1)).movedim(-1, 1))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def relative_rms():
    """``(result, expected) -> RMS of the difference over the RMS of what is expected``, on the CPU."""

    def measure(result: torch.Tensor, expected: torch.Tensor) -> float:
        return ((result.cpu() - expected.cpu()).square().mean() / expected.cpu().square().mean()).sqrt().item()

    return measure
