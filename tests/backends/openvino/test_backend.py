from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import SwinUNETR
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize, quantized_layers

pytest.importorskip("openvino")


def build(network, x, path, **options):
    return compile_network(network, "openvino", x, path, threads=1, **options)


def skip_without(precision):
    from mqb_monai.backends.openvino.conversion import cpu_capabilities

    if precision == "bf16" and "BF16" not in cpu_capabilities():
        pytest.skip("this CPU does not compute in BF16")


def relative_rms(result, expected):
    return ((result - expected).pow(2).mean() / expected.pow(2).mean()).sqrt().item()


def test_fp32_engine_equals_torch(network, x, tmp_path):
    engine = build(network, x, tmp_path / "engine")
    with torch.no_grad():
        expected = network(x)
    assert relative_rms(engine(x), expected) < 1e-4
    assert engine.record.scheme == "fp32"
    assert set(engine.record.placement.values()) == {"f32"}
    assert sorted(os.listdir(tmp_path / "engine")) == ["engine.json", "model.bin", "model.xml"]


def test_bf16_engine(network, x, tmp_path):
    skip_without("bf16")
    engine = build(network, x, tmp_path / "engine", precision="bf16")
    with torch.no_grad():
        assert 1e-5 < relative_rms(engine(x), network(x)) < 3e-2
    assert engine.record.scheme == "bf16"
    assert "bf16" in engine.record.placement.values()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_int8_runs_as_integers_and_agrees_with_the_simulation(network, qnet, x, tmp_path, precision, engine_scheme):
    skip_without(precision)
    engine = build(qnet, x, tmp_path / "engine", precision=precision)
    record = json.loads((tmp_path / "engine" / "engine.json").read_text())
    assert list(record["placement"]) == list(quantized_layers(qnet))
    assert set(record["placement"].values()) <= {"i8", "u8"}
    assert record["float_layers"] == []
    assert record["layer_check"]["layers"] == 6  # the alias counts once
    assert record["layer_check"]["worst_share"] >= 0.999
    assert (record["scheme"], record["input_shape"]) == (engine_scheme, list(x.shape))
    assert record["weights_sha256"] == qnet.quantization_record.weights_sha256
    with torch.no_grad():
        simulated, reference = qnet(x), network(x)
    # Every layer agrees to the step; over the whole network the ties add up to less than quantizing itself costs.
    limit = 0.6 if precision == "fp32" else 1.5
    difference = relative_rms(engine(x), simulated)
    assert difference < limit * relative_rms(simulated, reference)
    check = record["network_check"]
    assert check["difference"] / check["output"] == pytest.approx(difference)


def test_a_weight_is_stored_in_eight_bits(network, x, tmp_path, engine_scheme):
    big = nn.Sequential(nn.Conv3d(1, 64, 3), nn.Conv3d(64, 64, 3))
    build(big, x, tmp_path / "fp32")
    build(quantize(big, engine_scheme, [x]), x, tmp_path / "int8")
    assert (tmp_path / "int8" / "model.bin").stat().st_size < 0.3 * (tmp_path / "fp32" / "model.bin").stat().st_size


def test_per_tensor_weights_run_as_integers(network, x, tmp_path, engine_schemes):
    engine = build(quantize(network, engine_schemes["per_tensor"], [x]), x, tmp_path / "engine")
    assert set(engine.record.placement.values()) <= {"i8", "u8"}


def test_excluded_layers_are_placed_as_float(network, x, tmp_path, engine_scheme):
    qnet = quantize(network, engine_scheme, [x], exclude="head,token")
    placement = build(qnet, x, tmp_path / "engine").record.placement
    assert (placement["head"], placement["token"]) == ("f32", "f32")
    assert placement["merge"] in ("i8", "u8")


def test_batches(network, x, tmp_path):
    engine = build(network, x, tmp_path / "engine")  # compiled for 2
    five = torch.randn(5, *x.shape[1:])
    with torch.no_grad():
        assert torch.allclose(engine(five), network(five), atol=1e-4)
    assert engine(five[:1]).shape == (1, 3, *x.shape[2:])
    assert engine(five[:0]).shape == (0, 3, *x.shape[2:])


def test_another_spatial_shape_is_refused(network, x, tmp_path):
    engine = build(network, x, tmp_path / "engine")
    with pytest.raises(InputError, match=r"compiled for inputs \(B, 1, 12, 8, 8\), got \(2, 1, 8, 8, 8\).*roi_size"):
        engine(x[:, :, :8])


def test_metadata_device_and_dtype(network, x, tmp_path):
    engine = build(network, MetaTensor(x), tmp_path / "engine")
    meta = MetaTensor(x, affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    result = engine(meta)
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, meta.affine)
    assert type(engine(x)) is torch.Tensor
    assert engine(x.double()).dtype == torch.float32


def test_stands_in_for_a_network(network, x, tmp_path):
    engine = build(network, x, tmp_path / "engine").eval().to("cpu")
    twin = copy.deepcopy(engine)
    assert torch.equal(twin(x), engine(x))
    engine.load_state_dict(network.state_dict(), strict=False)
    with pytest.raises(TypeError, match="compile_network again"):
        pickle.dumps(engine)


def test_the_network_stays_as_it_is(qnet, x, tmp_path):
    qnet.train()
    qnet.up.eval()
    state = copy.deepcopy(qnet.state_dict())
    build(qnet, x, tmp_path / "engine")
    assert qnet.training and qnet.first.training and not qnet.up.training
    assert not qnet.up.weight_in_graph
    assert all(torch.equal(state[name], value) for name, value in qnet.state_dict().items())


def test_two_dimensions(tmp_path, engine_scheme):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2, groups=2), nn.Conv2d(4, 2, 1)
    )
    x = torch.randn(1, 3, 20, 24)
    qnet = quantize(net, engine_scheme, [x])
    engine = build(qnet, x, tmp_path / "engine")
    with torch.no_grad():
        assert relative_rms(engine(x), qnet(x)) < 0.02
    assert set(engine.record.placement) == {"0", "2", "3"}


def test_a_single_layer_is_a_network(tmp_path, engine_scheme):
    x = torch.randn(1, 4, 8, 8, 8)
    engine = build(quantize(nn.Conv3d(4, 8, 3), engine_scheme, [x]), x, tmp_path / "engine")
    assert set(engine.record.placement.values()) <= {"i8", "u8"}


@pytest.mark.parametrize("quantized", [False, True])
def test_swin_unetr_converts(tmp_path, quantized, engine_scheme):
    torch.manual_seed(0)
    net = SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1)).eval()
    x = torch.randn(1, 1, 64, 32, 32)
    if quantized:
        net = quantize(net, engine_scheme, [x])
    engine = build(net, x, tmp_path / "engine")
    with torch.no_grad():
        # With random weights 30 layers of ties add up; each layer by itself was checked at the export.
        assert relative_rms(engine(x), net(x)) < (0.2 if quantized else 1e-4)
    if quantized:
        assert engine.record.float_layers == []


def test_networks_that_do_not_fit(tmp_path, x):
    class Two(nn.Module):
        def forward(self, x):
            return x + 1, x * 2

    with pytest.raises(InputError, match="a network with one output, Two has 2"):
        build(Two(), x, tmp_path / "engine")
    with pytest.raises(InputError, match="could not convert Conv3d"):
        build(nn.Conv3d(5, 2, 3), x, tmp_path / "engine")
    assert os.listdir(tmp_path) == []


def test_nothing_is_reported_to_anyone(tmp_path):
    code = (
        "import torch; from mqb_monai.backends import compile_network; "
        f"compile_network(torch.nn.Conv3d(1, 1, 1), 'openvino', torch.ones(1, 1, 2, 2, 2), {str(tmp_path / 'e')!r})"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | {"HOME": str(home)})
    assert not (home / "intel").exists()  # where openvino_telemetry keeps the id that it sends
