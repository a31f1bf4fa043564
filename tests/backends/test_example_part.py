from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.example_part import central_part
from mqb_monai.quantization import quantize


class FixedShape(nn.Module):
    """As a transformer with one position embedding per voxel."""

    def __init__(self, *spatial: int) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 1, *spatial))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.position


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (nn.Conv3d(1, 1, 3), (2, 1, 64, 64, 64), (2, 1, 64, 64, 64)),  # small enough
        (nn.Conv3d(1, 1, 3), (2, 1, 96, 40, 128), (1, 1, 64, 40, 64)),
        (FixedShape(48, 40, 64), (1, 1, 96, 40, 128), (1, 1, 48, 40, 64)),
        (FixedShape(96, 40, 128), (1, 1, 96, 40, 128), (1, 1, 96, 40, 128)),
        (nn.Conv2d(1, 1, 3), (1, 1, 600, 500), (1, 1, 512, 500)),
    ],
)
def test_central_part_is_the_smallest_that_the_network_takes(network, shape, expected):
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)
    part = central_part(network, x)
    assert part.shape == expected
    if part.shape != x.shape:  # by hand: as much is left out before as behind
        begin = [(have - take) // 2 for have, take in zip(shape[2:], expected[2:], strict=True)]
        assert part.flatten()[0] == x[(0, 0, *begin)]


def test_an_engine_of_a_large_volume_is_checked_on_a_part(tmp_path, engine_scheme):
    """The simulation, counted by voxels, sees at most three parts beside the trace that OpenVINO reads."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 72, 80, 64)
    qnet = quantize(nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1)), engine_scheme, [x])
    seen: list[torch.Size] = []
    qnet.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape) if _real(args[0]) else None)
    engine = compile_network(qnet, "openvino", x, tmp_path / "engine", threads=1)
    assert seen.count(x.shape) == 1
    assert engine.record.layer_check["layers"] == 2
    assert engine.record.network_check["input_shape"] == [1, 1, 64, 64, 64]
    with torch.no_grad():
        assert torch.allclose(engine(x), qnet(x), atol=0.05)


def _real(x: torch.Tensor) -> bool:
    return type(x) is torch.Tensor
