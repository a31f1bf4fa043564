"""A small network with every kind of quantized layer, and what is made of it."""

from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mqb_monai.quantization import SCHEMES, LayerSpec, QuantSpec, Scheme, quantize
from mqb_monai.quantization.affine import range_qparams
from mqb_monai.quantization.layer_weight import scale_input_channels
from mqb_monai.quantization.modules import quantize_layer

SHAPE = (2, 1, 12, 8, 8)


class SmallNet(nn.Module):
    """Conv3d, strided Conv3d, ConvTranspose3d (kernel = stride = 2), concatenation, Linear; one module, two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True))
        self.down = nn.Conv3d(8, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose3d(16, 8, 2, 2)
        self.alias = self.up
        self.merge = nn.Conv3d(16, 8, 3, padding=1, bias=False)
        self.token = nn.Linear(8, 8)
        self.head = nn.Conv3d(8, 3, 1)
        self.act = nn.LeakyReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.first(x))
        y = self.alias(self.act(self.down(x)))
        y = self.act(self.merge(torch.cat([x, y], dim=1)))
        return self.head(self.token(y.movedim(1, -1)).movedim(-1, 1))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def qnet(network, x, engine_scheme) -> nn.Module:
    return quantize(network, engine_scheme, [x])


@pytest.fixture(scope="session")
def engine_schemes(engine_scheme) -> dict[str, Scheme]:
    """By granularity of the weights: what OpenVINO's engines compute exactly on this CPU."""
    channel = SCHEMES[engine_scheme]
    tensor = replace(channel.conv_weight, granularity="per_tensor")
    return {
        "per_channel": channel,
        "per_tensor": replace(channel, name="mine", conv_weight=tensor, linear_weight=tensor),
    }


@pytest.fixture
def make_layer():
    """``make_layer(layer, input_spec, weight_bits, prescale, low, high)``: ``layer``, quantized in place.

    Its input, times the prescale, has the range ``low`` to ``high``; its weights have few enough bits for any CPU.
    """

    def make(layer, spec, weight_bits=7, prescale=None, low=-1.0, high=3.0):
        if prescale is not None:
            layer.weight.data = scale_input_channels(layer.weight.data, layer, 1 / prescale)
        qparams = range_qparams(torch.tensor(low), torch.tensor(high), spec)
        return quantize_layer(layer, LayerSpec(spec, QuantSpec(weight_bits, "per_channel")), qparams, None, prescale)

    return make


@pytest.fixture
def absent_package(monkeypatch):
    """A function that makes one package (the last one that it was called with) fail to import."""
    real = builtins.__import__

    def hide(package: str) -> None:
        def absent(name, *arguments, **options):
            if name.split(".")[0] == package:
                raise ImportError(f"No module named {package!r}")
            return real(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", absent)

    return hide


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory) -> tuple[nn.Module, torch.Tensor, Path]:
    """A quantized network, its example input, and the folder of its ONNX engine: exporting takes seconds."""
    from mqb_monai.backends import compile_network

    torch.manual_seed(0)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    qnet = quantize(SmallNet().eval(), "w8a8_engine", [x])
    folder = tmp_path_factory.mktemp("onnx") / "engine"
    compile_network(qnet, "onnx", x, folder, threads=1)
    return qnet, x, folder
