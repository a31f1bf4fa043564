from __future__ import annotations

import copy
import json
import os
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization import (
    SCHEMES,
    LayerSpec,
    NotCalibratedWarning,
    QuantSpec,
    Scheme,
    build_quantized,
    load_quantized,
    plans_of,
    quantize,
    save_quantized,
)
from mqb_monai.quantization.checkpoint.checkpoint import restore_quantized
from mqb_monai.quantization.checkpoint.file import (
    payload_of_state,
    read_checkpoint,
    state_of_payload,
    write_checkpoint,
)

SUFFIXES = [".pt", ".safetensors"]


def assert_bit_equal(a, b):
    state_a, state_b = a.state_dict(), b.state_dict()
    assert list(state_a) == list(state_b)
    for name, tensor in state_a.items():
        assert tensor.dtype == state_b[name].dtype
        assert torch.equal(tensor, state_b[name]), name


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / "quantized" / f"w8a8_per_channel{request.param}"


@pytest.mark.parametrize("scheme", list(SCHEMES))
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_is_bit_equal(network, x, quantized, tmp_path, scheme, suffix):
    qnet = quantized(scheme)
    path = tmp_path / f"{scheme}{suffix}"
    save_quantized(qnet, path)
    loaded = load_quantized(network, path)
    assert_bit_equal(loaded, qnet)
    assert torch.equal(loaded(x), qnet(x))
    assert loaded.quantization_record == qnet.quantization_record
    assert type(network.conv) is nn.Conv3d
    assert sorted(os.listdir(tmp_path)) == sorted([f"{scheme}.json", f"{scheme}{suffix}"])
    assert json.loads((tmp_path / f"{scheme}.json").read_text()) == qnet.quantization_record.to_dict()


def test_round_trip_of_a_nnunet_stores_each_tensor_once(nnunet, path):
    x = torch.randn(1, 1, 8, 16, 16)
    with pytest.warns(NotCalibratedWarning):
        qnet = quantize(nnunet, "w8a8_per_tensor", [x])
    save_quantized(qnet, path)
    loaded = load_quantized(nnunet, path)
    assert_bit_equal(loaded, qnet)
    assert torch.equal(loaded(x), qnet(x))
    stage = "stages.0.0.convs.0"
    assert loaded.encoder.get_submodule(stage).conv is loaded.decoder.encoder.get_submodule(stage).all_modules[0]
    tensors = read_checkpoint(path)["tensors"]
    stored = sum(tensor.numel() for name, tensor in tensors.items() if name.endswith(("weight", "bias")))
    assert stored == sum(parameter.numel() for parameter in nnunet.parameters())
    assert {t.dtype for n, t in tensors.items() if n.endswith("conv.weight")} == {torch.int8}


def test_round_trip_of_shared_weights_and_asymmetric_ones(tmp_path):
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
    network[1].weight = network[0].weight
    spec = QuantSpec(8, "per_tensor", symmetric=False)
    qnet = quantize(network, Scheme("mine", spec, spec, spec, spec, spec), [torch.randn(2, 3)])
    save_quantized(qnet, tmp_path / "a.pt")
    payload = read_checkpoint(tmp_path / "a.pt")
    assert payload["aliases"]["1.weight"] == "0.weight"
    assert payload["tensors"]["0.weight"].dtype == torch.uint8
    loaded = load_quantized(network, tmp_path / "a.pt")
    assert loaded[0].weight is loaded[1].weight
    assert_bit_equal(loaded, qnet)


def test_round_trip_of_a_single_layer_and_a_new_bias(tmp_path):
    linear = nn.Linear(3, 2, bias=False)
    qnet = quantize(linear, "w8a8_per_tensor", [torch.randn(4, 3)])
    qnet.bias = nn.Parameter(torch.tensor([1.0, 2.0]))  # as bias correction may do
    save_quantized(qnet, tmp_path / "a.pt")
    loaded = load_quantized(linear, tmp_path / "a.pt")
    assert_bit_equal(loaded, qnet)
    assert linear.bias is None


def test_loads_without_the_float_weights(network, x, quantized, path):
    qnet = quantized()
    save_quantized(qnet, path)
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        nn.init.constant_(parameter, float("nan"))
    with pytest.raises(InputError, match=r"made of other weights.*weights_sha256 is [0-9a-f]{64}.*check_weights=False"):
        load_quantized(other, path)
    loaded = load_quantized(other, path, check_weights=False)
    assert_bit_equal(loaded, qnet)
    assert torch.equal(loaded(x), qnet(x))


def test_saving_over_a_checkpoint_replaces_both_files(network, x, quantized, path):
    save_quantized(quantized("w4a4_engine"), path)
    qnet = quantized("w8a8_per_tensor")
    save_quantized(qnet, path)
    assert_bit_equal(load_quantized(network, path), qnet)
    assert json.loads(path.with_suffix(".json").read_text())["scheme"] == "w8a8_per_tensor"


def test_save_refuses_a_float_network(network, path):
    with pytest.raises(InputError, match="not quantized"):
        save_quantized(network, path)


def test_save_refuses_other_suffixes(quantized, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.pt or \.safetensors, got .*a\.onnx"):
        save_quantized(quantized(), tmp_path / "a.onnx")


def test_save_refuses_a_weight_off_its_grid(quantized, path):
    qnet = quantized()
    qnet.up.weight.data += 1e-4
    with pytest.raises(InputError, match="layer up: its weight was changed"):
        save_quantized(qnet, path)
    assert not path.parent.exists()


def test_full_disk_leaves_nothing_behind(quantized, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"could not write.*No space left on device"):
        save_quantized(quantized(), tmp_path / "a.pt")
    assert os.listdir(tmp_path) == []


def test_full_disk_at_the_record_leaves_nothing_behind(quantized, path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match="could not write"):
        save_quantized(quantized(), path)
    assert os.listdir(path.parent) == []


def test_load_missing_file(network, path):
    with pytest.raises(InputError, match=r"no quantized checkpoint at .*make it with quantize"):
        load_quantized(network, path)


def test_load_truncated_file(network, quantized, path):
    save_quantized(quantized(), path)
    data = path.read_bytes()
    for length in (0, 7, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="cannot be read: it is truncated"):
            load_quantized(network, path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/tmp/mqb_monai_must_never_exist",)


def test_load_never_unpickles_objects(network, tmp_path):
    for name, write in (
        ("plain.pt", lambda p: p.write_bytes(pickle.dumps(Evil()))),
        ("torch.pt", lambda p: torch.save({"format": Evil()}, p)),
    ):
        write(tmp_path / name)
        with pytest.raises(InputError, match="never unpickled") as error:
            load_quantized(network, tmp_path / name)
        assert "weights_only" not in str(error.value)
    assert not os.path.exists("/tmp/mqb_monai_must_never_exist")


def test_load_refuses_a_float_networks_weights(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "model.pt")
    with pytest.raises(InputError, match="not a quantized checkpoint of mqb_monai"):
        load_quantized(network, tmp_path / "model.pt")
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="not a quantized checkpoint of mqb_monai"):
        load_quantized(network, tmp_path / "model.safetensors")


def test_load_refuses_another_version(network, quantized, tmp_path):
    save_quantized(quantized(), tmp_path / "a.pt")
    payload = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save(payload | {"format_version": 99}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="format version 99, this mqb_monai reads 3"):
        load_quantized(network, tmp_path / "a.pt")
    torch.save(payload | {"tensors": None}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="damaged"):
        load_quantized(network, tmp_path / "a.pt")


@pytest.mark.parametrize("check_weights", [True, False])
def test_load_names_the_layers_of_another_architecture(network, quantized, path, check_weights):
    save_quantized(quantized(), path)

    def refused(match, change):
        other = copy.deepcopy(network)
        change(other)
        with pytest.raises(InputError, match=f"another architecture.*{match}"):
            load_quantized(other, path, check_weights)

    refused(
        "the checkpoint lacks extra.weight; the checkpoint lacks extra.bias",
        lambda n: n.add_module("extra", nn.Linear(1, 1)),
    )
    refused("the network lacks norm.weight", lambda n: n.add_module("norm", nn.Identity()))
    refused("the network lacks up.weight", lambda n: delattr(n, "up"))
    refused(r"linear.weight is \(5, 7\), in the checkpoint \(5, 4\)", lambda n: n.add_module("linear", nn.Linear(7, 5)))
    refused("conv is a Conv2d, in the checkpoint a Conv3d", lambda n: n.add_module("conv", nn.Conv2d(3, 4, 3)))
    refused(
        r"\(\d\d differences\).*and \d+ more",
        lambda n: n.__init__() or n.__setattr__("_modules", nn.Sequential(nn.Linear(1, 1))._modules),
    )


@pytest.fixture
def prescaled(network, x, calibrate):
    """:func:`network` under ``w4a8_engine`` with 4-bit inputs of two terms; the input of ``conv`` is prescaled."""
    calibration = calibrate(network, "w4a8_engine", [x], exclude="unused")
    plans = plans_of(calibration)
    spec = LayerSpec(QuantSpec(4, "per_tensor", terms=2), plans["up"].spec.weight)
    plans["conv"] = replace(plans["conv"], spec=spec, input_prescale=torch.tensor([2.0, 0.1, 1.0]))
    return build_quantized(network, calibration, plans)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_of_a_prescaled_input_and_two_terms(network, x, prescaled, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_quantized(prescaled, path)
    payload = read_checkpoint(path)
    assert [key for key in payload["tensors"] if "prescale" in key] == ["conv.input_prescale"]
    assert payload["layers"]["conv"]["input"]["terms"] == 2
    loaded = load_quantized(network, path)
    assert_bit_equal(loaded, prescaled)
    assert torch.equal(loaded(x), prescaled(x))
    assert (loaded.conv.spec, loaded.up.input_prescale) == (prescaled.conv.spec, None)
    assert loaded.quantization_record == prescaled.quantization_record


def test_load_refuses_a_prescale_of_another_shape(network, prescaled, tmp_path):
    save_quantized(prescaled, tmp_path / "a.pt")
    payload = read_checkpoint(tmp_path / "a.pt")
    payload["tensors"]["conv.input_prescale"] = torch.ones(4)
    write_checkpoint(tmp_path / "a.pt", payload)
    with pytest.raises(InputError, match=r"conv\.input_prescale is \(4,\), expected \(3,\)"):
        load_quantized(network, tmp_path / "a.pt")


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_of_four_bits_are_stored_two_to_a_byte(symmetric, tmp_path):
    """By hand: ``(5, 3, 1, 1, 1)`` are 15 integers, in 8 bytes; a flat state dict of them is read too."""
    network, x = nn.Conv3d(3, 5, 1).eval(), torch.randn(1, 3, 2, 2, 2)
    inputs, weights = QuantSpec(8, "per_tensor"), QuantSpec(4, "per_channel", symmetric)
    qnet = quantize(network, Scheme("mine", inputs, weights, inputs, inputs, weights), [x])
    save_quantized(qnet, tmp_path / "a.pt")
    payload = read_checkpoint(tmp_path / "a.pt")
    assert (payload["tensors"]["weight"].shape, payload["tensors"]["weight"].dtype) == ((8,), torch.uint8)
    assert payload["layers"][""]["shape"] == [5, 3, 1, 1, 1]
    for read in (payload, payload_of_state(state_of_payload(payload), "it")):
        loaded = restore_quantized(network, read, "it")
        assert torch.equal(loaded.integer_weight, qnet.integer_weight)
        assert_bit_equal(loaded, qnet)


def test_weights_of_four_bits_go_on_being_shared(tmp_path):
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
    network[1].weight = network[0].weight
    qnet = quantize(network, "w4a8_engine", [torch.randn(2, 3)])
    save_quantized(qnet, tmp_path / "a.pt")
    loaded = load_quantized(network, tmp_path / "a.pt")
    assert loaded[0].weight is loaded[1].weight
    assert_bit_equal(loaded, qnet)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_four_bit_checkpoint_is_an_eighth_of_the_float_network(suffix, tmp_path):
    network = nn.Sequential(*[nn.Linear(512, 512, bias=False) for _ in range(4)]).eval()
    save_quantized(quantize(network, "w4a8_engine", [torch.randn(2, 512)]), tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size < 1.05 * 4 * 4 * 512 * 512 / 8


def test_load_refuses_a_packed_weight_of_another_size(network, quantized, tmp_path):
    save_quantized(quantized("w4a8_engine"), tmp_path / "a.pt")
    payload = read_checkpoint(tmp_path / "a.pt")
    payload["tensors"]["up.weight"] = payload["tensors"]["up.weight"][1:]
    write_checkpoint(tmp_path / "a.pt", payload)
    with pytest.raises(InputError, match=r"damaged: up\.weight: 96 integers are packed in \(48,\) .*got \(47,\)"):
        load_quantized(network, tmp_path / "a.pt")
