"""What tells one network from another whose weights and ``repr`` are the same."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.engine_record import describe_engine
from mqb_monai.backends.traced_graph import graph_sha256, runs_on
from mqb_monai.quantization import quantize


class Net(nn.Module):
    """Two layers; a subclass edits what lies between and behind them, and is still printed alike."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 2, 1)
        self.grid = torch.arange(4.0)  # an attribute: neither a parameter nor a buffer
        self.skip = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.leaky_relu(self.first(x), 0.1) * self.grid.view(1, 4, 1, 1, 1)
        return self.last(y) if self.skip else self.last(y) + x


class Flipped(Net):
    def forward(self, x):
        return super().forward(x).flip(1)


class Steeper(Net):
    def forward(self, x):
        y = nn.functional.leaky_relu(self.first(x), 0.2) * self.grid.view(1, 4, 1, 1, 1)
        return self.last(y) + x


class Constant(Net):
    def forward(self, x):
        return super().forward(x) + torch.tensor([1.5])


class OtherConstant(Net):
    def forward(self, x):
        return super().forward(x) + torch.tensor([2.5])


Flipped.__name__ = Steeper.__name__ = Constant.__name__ = OtherConstant.__name__ = "Net"
SHAPE = (1, 1, 6, 6, 6)


def make(kind: type[Net] = Net, **attributes) -> Net:
    torch.manual_seed(0)
    network = kind().eval()
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


@pytest.mark.parametrize("quantized", [False, True])
def test_graph_sha256_differs_where_forward_does(quantized):
    x = torch.randn(SHAPE)
    kinds = [make(kind) for kind in (Net, Flipped, Steeper, Constant, OtherConstant)]
    kinds += [make(skip=True), make(grid=torch.arange(4.0) + 1)]
    if quantized:
        kinds = [quantize(network, "w8a8_engine", [x]) for network in kinds]
    assert len({repr(network) for network in kinds}) == 1
    found = [graph_sha256(network, x) for network in kinds]
    assert len(set(found)) == len(kinds)
    assert [graph_sha256(network, x + 1) for network in kinds] == found  # of the example only its shape counts
    assert graph_sha256(kinds[0], torch.randn(1, 1, 8, 6, 6)) != found[0]


def test_describe_engine_is_the_same_in_another_process():
    code = (
        "import torch; from tests.backends.test_traced_graph import SHAPE, make; "
        "from mqb_monai.backends.engine_record import describe_engine; from mqb_monai.quantization import quantize; "
        "x = torch.arange(216.0).view(SHAPE); net = quantize(make(), 'w8a8_engine', [x]); "
        "print(describe_engine(net, x, 'onnx', 'fp32', engine_version='1').content_sha256)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    x = torch.arange(216.0).view(SHAPE)
    here = describe_engine(quantize(make(), "w8a8_engine", [x]), x, "onnx", "fp32", engine_version="1").content_sha256
    assert run.stdout.strip() == here


def test_graph_sha256_runs_the_example_where_the_data_decide_and_leaves_the_network():
    class Deciding(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor, self.seen = factor, None

        def forward(self, x):
            self.seen = x * self.factor
            return self.seen if x.sum() > 0 else -x

    two, three = Deciding(2.0), Deciding(3.0)
    assert graph_sha256(two, torch.ones(SHAPE)) != graph_sha256(three, torch.ones(SHAPE))
    assert two.seen is None
    assert not runs_on(two, torch.ones(SHAPE))
    assert runs_on(make(), torch.ones(SHAPE)) and not runs_on(make(), torch.ones(1, 2, 6, 6, 6))


CACHE: dict[int, tuple[torch.Tensor]] = {}


@functools.lru_cache
def cached_mask(length: int) -> tuple[torch.Tensor, int]:
    return torch.full((length,), 2.0), length


class Caching(nn.Module):
    """Tensors kept in a function's cache, a dict of the module's, a dict of the network's, a class attribute."""

    of_class: torch.Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.own: dict[int, torch.Tensor] = {}

    def forward(self, x):
        length = x.shape[-1]
        if Caching.of_class is None:
            Caching.of_class = torch.full((length,), 3.0)
        mask = CACHE.setdefault(length, (torch.full((length,), 5.0),))[0] * cached_mask(length)[0]
        return x * mask * Caching.of_class * self.own.setdefault(length, torch.full((length,), 7.0))


def test_graph_sha256_leaves_no_tensor_without_data_in_a_cache():
    graph_sha256(Caching(), torch.ones(SHAPE))
    network = Caching()
    assert runs_on(network, torch.ones(SHAPE))
    assert torch.equal(network(torch.ones(SHAPE)), torch.full(SHAPE, 210.0))  # by hand: 2 * 3 * 5 * 7


def test_an_edited_forward_is_built_again(tmp_path, engine_scheme):
    """Oracle: the simulation of the edited network; the layers see what they saw before."""
    x = torch.randn(SHAPE)
    for network in (make(), make(Flipped)):
        qnet = quantize(network, engine_scheme, [x])
        engine = compile_network(qnet, "openvino", x, tmp_path / "engine", threads=1)
        with torch.no_grad():
            assert torch.allclose(engine(x), qnet(x), atol=1e-4)
