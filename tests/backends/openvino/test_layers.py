"""What runs as integers, by the runtime graph, and agrees with the simulation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.layer_check import measure_layers
from mqb_monai.backends.openvino.conversion import compile_model, convert, run_layers
from mqb_monai.backends.openvino.placement import INTEGER, float_layers, read_placement
from mqb_monai.quantization import quantize
from mqb_monai.quantization.affine import quantize_affine
from mqb_monai.quantization.scheme import QuantSpec

pytest.importorskip("openvino")

ASYMMETRIC = QuantSpec(8, "per_tensor", symmetric=False)
VOLUME = (1, 8, 8, 7, 9)
PRESCALE = torch.linspace(0.5, 2.0, 8)
LAYERS = {
    "conv": (lambda: nn.Conv3d(8, 16, 3, padding=1), VOLUME),
    "dilated": (lambda: nn.Conv3d(8, 16, 3, padding=2, dilation=2), VOLUME),
    "strided": (lambda: nn.Conv3d(8, 16, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False), VOLUME),
    "1x1x1": (lambda: nn.Conv3d(8, 16, 1), VOLUME),
    "two groups": (lambda: nn.Conv3d(8, 16, 3, padding=1, groups=2), VOLUME),
    "groups of two": (lambda: nn.Conv3d(8, 8, 3, stride=2, padding=1, groups=4), VOLUME),
    "groups of one, same": (lambda: nn.Conv3d(8, 16, 3, padding="same", groups=8), VOLUME),
    "reflected": (lambda: nn.Conv3d(8, 4, 3, padding=1, padding_mode="reflect"), VOLUME),
    "two dimensions": (lambda: nn.Conv2d(8, 16, 3, padding=1), VOLUME[:4]),
    "linear": (lambda: nn.Linear(8, 16), (2, 30, 8)),
    "block up-sampling": (lambda: nn.ConvTranspose3d(8, 4, 2, 2), VOLUME),
    "block up-sampling, anisotropic": (lambda: nn.ConvTranspose3d(8, 4, (1, 2, 3), (1, 2, 3), bias=False), VOLUME),
    "block up-sampling, two dimensions": (lambda: nn.ConvTranspose2d(8, 4, 2, 2), VOLUME[:4]),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def noise(*shape: int) -> torch.Tensor:
    """Over the range that ``make_layer`` gives, and a little more."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 4.5 - 1.25


def runs_as(qnet: nn.Module, x: torch.Tensor) -> dict[str, str]:
    return read_placement(compile_model(convert(qnet, (x,)), threads=1), qnet)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("prescale", [None, PRESCALE], ids=["", "prescaled"])
@pytest.mark.parametrize("name", LAYERS)
def test_an_asymmetric_input_runs_as_integers(name, prescale, bits, make_layer):
    """The oracle is the simulation, of every number within one step."""
    layer, shape = LAYERS[name]
    qnet = make_layer(layer(), QuantSpec(bits, "per_tensor", symmetric=False), prescale=prescale).eval()
    assert qnet.input_zero_point > 0
    x = noise(*shape)
    assert set(runs_as(qnet, x).values()) == {"u8"}
    (agreement,) = measure_layers(qnet, x, run_layers)
    assert agreement.share == 1 and agreement.max_steps <= 1.001


@pytest.mark.parametrize("weight_bits", range(2, 8))
@pytest.mark.parametrize("name", ["conv", "two groups", "linear", "block up-sampling"])
@pytest.mark.parametrize("spec", [QuantSpec(8, "per_tensor"), QuantSpec(3, "per_tensor")], ids=["8 bits", "3 bits"])
def test_fewer_bits_run_as_integers(name, weight_bits, spec, make_layer):
    """The oracle is the simulation at these bits, of every number within one step."""
    layer, shape = LAYERS[name]
    qnet = make_layer(layer(), spec, weight_bits=weight_bits, prescale=PRESCALE).eval()
    x = noise(*shape)
    assert set(runs_as(qnet, x).values()) <= INTEGER
    (agreement,) = measure_layers(qnet, x, run_layers)
    assert agreement.share == 1 and agreement.max_steps <= 1.001


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose3d(8, 4, 3, 2, padding=1, output_padding=1),
        nn.ConvTranspose3d(8, 4, 2, 2, groups=2),
        nn.Conv3d(8, 8, 3, padding=1, groups=8),
    ],
    ids=["overlapping", "grouped", "depthwise"],
)
def test_an_asymmetric_layer_without_integer_kernel_is_right_and_reported(layer, make_layer, tmp_path, caplog):
    """OpenVINO 2026.4 runs all three in floating point, at least with AVX2; none may do so unsaid."""
    qnet = nn.Sequential(
        make_layer(layer, ASYMMETRIC), nn.ELU(), make_layer(nn.Conv3d(layer.out_channels, 2, 1), ASYMMETRIC)
    )
    record = compile_network(qnet.eval(), "openvino", noise(*VOLUME), tmp_path / "engine", threads=1).record
    assert record.layer_check["worst_share"] == 1
    assert record.placement["2"] == "u8"
    assert record.float_layers == ([] if record.placement["0"] in INTEGER else ["0"])
    assert ("do not run as integers on this CPU: 0" in caplog.text) == bool(record.float_layers)


def chain(make_layer) -> nn.Sequential:
    """Convolutions with ELU, a norm and an up-sampling between them, all of asymmetric input, two of 4 bits."""
    narrow = QuantSpec(4, "per_tensor", symmetric=False)
    return nn.Sequential(
        make_layer(nn.Conv3d(8, 8, 3, padding=1), ASYMMETRIC, prescale=PRESCALE),
        nn.ELU(),
        make_layer(nn.Conv3d(8, 8, 1, bias=False), ASYMMETRIC, prescale=PRESCALE),
        nn.InstanceNorm3d(8),
        nn.ELU(),
        make_layer(nn.ConvTranspose3d(8, 8, 2, 2), narrow, prescale=PRESCALE),
        nn.ELU(),
        make_layer(nn.Conv3d(8, 8, 3, padding=2, dilation=2), ASYMMETRIC),
        nn.ELU(),
        make_layer(nn.Conv3d(8, 3, 1), narrow),
    ).eval()


def test_a_chain_with_activations_between_runs_as_integers(make_layer, tmp_path):
    """The oracles are the simulation of each layer, and that of the whole network."""
    record = compile_network(chain(make_layer), "openvino", noise(*VOLUME), tmp_path / "engine", threads=1).record
    assert record.placement == dict.fromkeys(["0", "2", "5", "7", "9"], "u8")
    assert record.float_layers == []
    assert record.layer_check["worst_share"] == 1
    assert record.network_check["difference"] <= record.network_check["sensitivity"]


def test_the_network_is_what_it_was_after_a_conversion(make_layer):
    qnet, x = chain(make_layer), noise(*VOLUME)
    before = {name: set(module.__dict__) for name, module in qnet.named_modules()}
    with torch.no_grad():
        expected = qnet(x)
        convert(qnet, (x,))
        assert torch.equal(qnet(x), expected)
    assert {name: set(module.__dict__) for name, module in qnet.named_modules()} == before


class Padded(nn.Module):
    """An up-sampling that is called with ``output_size``."""

    def __init__(self, up: nn.Module, size: tuple[int, ...]) -> None:
        super().__init__()
        self.up, self.size = up, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(x, output_size=self.size)


@pytest.mark.parametrize(("size", "integer"), [((8, 8, 8), True), ((9, 9, 9), False)])
def test_an_output_size_that_no_shuffle_gives_keeps_the_transposed_convolution(size, integer, make_layer):
    """The oracle is the simulation."""
    qnet = Padded(make_layer(nn.ConvTranspose3d(8, 4, 2, 2), ASYMMETRIC), size).eval()
    x = noise(1, 8, 4, 4, 4)
    compiled = compile_model(convert(qnet, (x,)), threads=1)
    assert (float_layers(read_placement(compiled, qnet), qnet) == []) == integer
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(compiled(x.numpy())[0]), qnet(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_two_terms_rebuild_the_integer_that_is_exported(symmetric, make_layer):
    """By hand: ``q = 16 hi + lo`` of two 4-bit terms, ``hi`` signed where the range is symmetric, ``lo`` never."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    qnet = make_layer(layer, QuantSpec(4, "per_tensor", symmetric, terms=2)).eval()
    x = torch.linspace(-4, 4, 4001).view(-1, 1)
    q = quantize_affine(x, qnet.input_scale, qnet.input_zero_point, qnet.spec.input.qmin, qnet.spec.input.qmax)
    high = torch.div(q, 16, rounding_mode="floor")
    low = q - 16 * high
    assert (high.min(), high.max(), low.min(), low.max()) == ((-8, 7, 0, 15) if symmetric else (0, 15, 0, 15))
    output = run_layers({"0": qnet}, {"0": x})["0"]  # a weight of 1: the input as the engine rounded it
    exported = (output / qnet.input_scale).round().int() + qnet.input_zero_point
    tie = ((x / qnet.input_scale).frac().abs() - 0.5).abs() < 1e-3  # either way
    assert torch.equal(exported[~tie], (16 * high + low)[~tie])


@pytest.mark.parametrize("scheme", ["w4a8_engine", "w2a8_engine", "w4a4_engine", "w3a3_engine", "w4a4_per_tensor"])
def test_schemes_of_fewer_bits_build(scheme, network, x, tmp_path):
    """The oracles are the layers' simulation and the network's."""
    record = compile_network(quantize(network, scheme, [x]), "openvino", x, tmp_path / "engine", threads=1).record
    assert set(record.placement.values()) <= INTEGER and len(record.placement) == 6
    assert record.float_layers == []
    assert record.layer_check["worst_share"] == 1
    assert record.network_check["difference"] <= 1e-3 * record.network_check["output"]
