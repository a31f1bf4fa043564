from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from mqb_monai.quantization import quantize


class Tricky(nn.Module):
    """What networks do between and inside their modules: in place, shared, nested, twice, and out again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.LeakyReLU(inplace=True))
        self.shared = nn.Conv3d(4, 4, 3, padding=1)
        self.again = self.shared  # a second name
        self.branches = Branches()
        self.token = nn.Linear(4, 4)
        self.head = nn.Conv3d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        skip = x
        x = self.shared(x)
        x += skip
        left, others = self.branches(x)
        x = left + others["right"]
        x = self.again(x.relu_())
        x = x + self.token(x.movedim(1, -1)).movedim(-1, 1)
        return self.head(x)


class Branches(nn.Module):
    """A module with a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Conv3d(4, 4, 1), nn.Conv3d(4, 4, 1), nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.out(self.left(x)), {"right": self.right(x)}


@pytest.fixture
def x():
    return torch.randn(1, 1, 8, 6, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tricky(x):
    """A float network and itself quantized to 4 bits."""
    torch.manual_seed(0)
    network = Tricky().eval()
    return network, quantize(network, "w4a4_per_channel", [x]).eval()


@pytest.fixture
def nnunet(x):
    """A PlainConvUNet, whose layers stand under several names, and itself quantized."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
        torch.manual_seed(0)
        network = unet.PlainConvUNet(
            input_channels=1,
            n_stages=2,
            features_per_stage=[4, 6],
            conv_op=nn.Conv3d,
            kernel_sizes=3,
            strides=[1, 2],
            n_conv_per_stage=1,
            num_classes=3,
            n_conv_per_stage_decoder=1,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
        ).eval()
        return network, quantize(network, "w8a8_engine", [torch.nn.functional.pad(x, (0, 1))]).eval()
