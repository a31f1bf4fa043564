"""Layers cut out of an exported file, each against its simulation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends.layer_check import measure_layers
from mqb_monai.backends.onnx.export import export_model
from mqb_monai.backends.onnx.file import read_model, save_model
from mqb_monai.backends.onnx.runtime import run_layers
from mqb_monai.errors import InputError
from mqb_monai.quantization import QuantSpec, quantize, quantized_layers

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv3d(4, 8, 3, dilation=2, padding=2, padding_mode="reflect"), (2, 4, 9, 8, 7)),
        (nn.Conv3d(8, 8, 3, groups=8, bias=False), (1, 8, 6, 6, 6)),
        (nn.ConvTranspose3d(8, 4, 3, 2, padding=1, output_padding=1), (1, 8, 4, 6, 6)),
        (nn.ConvTranspose2d(8, 4, 2, 2), (1, 8, 4, 6)),
        (nn.Linear(6, 5), (2, 3, 7, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_network_that_is_one_layer(layer, shape, tmp_path):
    x = torch.randn(shape)
    qnet = quantize(layer, "w8a8_engine", [x])
    save_model(export_model(qnet, x), tmp_path / "model.onnx")
    model = read_model(tmp_path / "model.onnx")
    (agreement,) = measure_layers(qnet, x, lambda layers, inputs: run_layers(model, layers, inputs, threads=1))
    assert agreement.layer == "" and agreement.share == 1 and agreement.max_steps < 0.01


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["", "1"], ids=["the network itself", "in a network"])
@pytest.mark.parametrize("prescale", [None, torch.tensor([0.5, 1.0, 2.0, 4.0])], ids=["", "prescaled"])
def test_a_layer_is_cut_out_with_its_prescale_and_the_range_of_its_bits(prescale, name, bits, make_layer, tmp_path):
    """The oracle is the simulation, of every number within one step."""
    layer = make_layer(nn.Conv3d(4, 8, 3, padding=1), QuantSpec(bits, "per_tensor"), prescale=prescale)
    qnet = (nn.Sequential(nn.ELU(), layer) if name else layer).eval()
    x = 4 * torch.randn(1, 4, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    save_model(export_model(qnet, x), tmp_path / "model.onnx")
    model = read_model(tmp_path / "model.onnx")
    (agreement,) = measure_layers(qnet, x, lambda layers, inputs: run_layers(model, layers, inputs, threads=1))
    assert agreement.layer == name and agreement.share == 1 and agreement.max_steps < 0.01


def test_layers_run_on_inputs_of_their_own(onnx_folder):
    qnet, _, folder = onnx_folder
    layers = {name: layer for name, layer in quantized_layers(qnet).items() if name in ("up", "token", "head")}
    inputs = {"up": torch.randn(1, 16, 2, 3, 4), "token": torch.randn(5, 8), "head": torch.randn(3, 8, 2, 2, 2)}
    outputs = run_layers(read_model(folder / "model.onnx"), layers, inputs, threads=1)
    for name, layer in layers.items():  # oracle: the simulation, but for ties of rounding
        with torch.no_grad():
            difference = (outputs[name] - layer(inputs[name])).abs()
        assert (difference < 1e-5).float().mean() > 0.98 and difference.max() < 0.1
    assert run_layers(read_model(folder / "model.onnx"), {}, {}) == {}


def test_a_layer_that_the_file_lacks_is_named(onnx_folder):
    qnet, x, folder = onnx_folder
    with pytest.raises(InputError, match="layer 'other' is not in the ONNX model: expected a node other/Conv or"):
        run_layers(read_model(folder / "model.onnx"), {"other": qnet.head}, {"other": x})
