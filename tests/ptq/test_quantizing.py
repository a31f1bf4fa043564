from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import mqb_monai
from mqb_monai import quantization
from mqb_monai.errors import InputError
from mqb_monai.ptq import quantize
from mqb_monai.quantization import NotCalibratedWarning, load_quantized, quantized_layers, save_quantized


def test_quantize_by_min_max_is_the_study_s(network, scans, same_state):
    """Oracle: ``mqb_monai.quantization.quantize``, to the last bit."""
    for scheme in ("w8a8_engine", "w4a4_adaptive"):
        expected = quantization.quantize(network, scheme, scans)
        found = quantize(network, scheme, scans)
        assert same_state(found, expected)
        assert found.quantization_record == expected.quantization_record
    assert mqb_monai.quantize is quantize


@pytest.mark.parametrize("recipe", ["minmax", "equalize", "learnt", "auto"])
def test_quantize_names_its_recipe_and_leaves_the_network_alone(recipe, network, scans, leftovers):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    quantized = quantize(network, "w8a8_engine", scans, recipe)
    assert quantized.quantization_record.recipe == recipe
    assert network.training and quantized.training and not leftovers(network) and not leftovers(quantized)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_quantize_by_auto_tells_what_it_tried(network, scans):
    lines = []
    record = quantize(network, "w4a4_engine", scans, "auto", say=lines.append).quantization_record
    assert record.trials[0]["recipe"] == "minmax" and len(record.trials) == len(lines) + 1 > 1


def test_quantize_of_one_scan_is_enough(network, scan):
    assert quantize(network, "w8a8_engine", [scan], "search").quantization_record.steps


def test_quantize_refuses_an_unknown_recipe_and_constant_data(network, scan):
    with pytest.raises(InputError, match=r"unknown recipe 'best'; choose one of minmax, "):
        quantize(network, "w8a8_engine", [scan], "best")
    with pytest.raises(InputError, match="constant"):
        quantize(network, "w8a8_engine", [scan * 0], "mse")
    with pytest.raises(InputError, match="put it in a list"):
        quantize(network, "w8a8_engine", scan, "mse")


def test_quantize_leaves_a_layer_float_that_never_runs(network, scans):
    network.unused = nn.Conv3d(1, 1, 3)
    with pytest.warns(NotCalibratedWarning, match="unused") as warned:
        quantized = quantize(network, "w8a8_engine", scans, "search")
    assert len(warned) == 1
    assert type(quantized.unused) is nn.Conv3d
    assert quantized.quantization_record.reasons == {"unused": "no calibration data reached it"}


def test_quantize_excludes_layers(network, scans):
    quantized = quantize(network, "w8a8_engine", scans, "search", exclude="head")
    assert set(quantized_layers(quantized)) == {"first", "middle"}


@pytest.mark.parametrize(
    ("scheme", "recipe"), [("w4a4_engine", "learnt"), ("w8a8_engine", "mse"), ("w3a3_engine", "search")]
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_quantized_by_a_recipe_survives_its_checkpoint(scheme, recipe, suffix, network, scans, tmp_path, same_state):
    """Prescales, changed and added biases, two-term inputs, weights packed two to a byte; bit-equal."""
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    network.middle.bias = None
    quantized = quantize(network, scheme, scans, recipe)
    path = tmp_path / f"{scheme}.{suffix}"
    save_quantized(quantized, path)
    loaded = load_quantized(network, path)
    assert same_state(loaded, quantized)
    assert {n: layer.spec for n, layer in quantized_layers(loaded).items()} == {
        n: layer.spec for n, layer in quantized_layers(quantized).items()
    }
    with torch.no_grad():
        assert torch.equal(loaded(scans[0]), quantized(scans[0]))
    record = json.loads(path.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert (record["recipe"], record["scheme"]) == (recipe, scheme)
    assert record == json.loads(json.dumps(loaded.quantization_record.to_dict()))
