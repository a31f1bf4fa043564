from __future__ import annotations

import json

import pytest
import torch
from ignite.engine import Engine

from mqb_monai.backends.torch_backend import TorchEngine
from mqb_monai.bundle.engines import build_network, simulated_network
from mqb_monai.errors import InputError
from mqb_monai.handlers.engine import EngineHandler
from mqb_monai.ptq import quantize as by_recipe
from mqb_monai.quantization import quantize, quantized_layers, save_quantized, weights_sha256

SHAPE = (1, 1, 8, 8, 8)


def write_quantize_config(root):
    (root / "configs").mkdir()
    (root / "configs" / "quantize.json").touch()


@pytest.fixture
def x():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def quantized_dir(network, x, tmp_path):
    save_quantized(quantize(network, "w8a8_engine", [x]), tmp_path / "quantized" / "w8a8_engine.pt")
    return tmp_path / "quantized"


def test_build_network_fp32_is_the_network_itself(network, tmp_path):
    assert build_network(network, "fp32", "torch", tmp_path, tmp_path, SHAPE) is network


def test_build_network_bf16_is_autocast(network, x, tmp_path):
    built = build_network(network, "bf16", "torch", tmp_path, tmp_path, SHAPE)
    assert isinstance(built, TorchEngine) and built.precision == "bf16"
    with torch.no_grad():
        result, reference = built(x), network(x)
    assert result.dtype == torch.float32 and next(network.parameters()).dtype == torch.float32
    assert not torch.equal(result, reference)  # oracle: bfloat16 keeps 8 bits, FP32 24
    assert torch.allclose(result, reference, atol=0.05)


def test_build_network_simulates_the_checkpoint(network, x, quantized_dir, tmp_path):
    built = build_network(network, "w8a8_engine", "torch", quantized_dir, tmp_path / "engines", SHAPE)
    assert list(quantized_layers(built)) == ["first", "head"]
    with torch.no_grad():  # oracle: what was saved
        assert torch.equal(built.eval()(x), quantize(network, "w8a8_engine", [x]).eval()(x))
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_build_network_names_the_command_that_makes_a_checkpoint(network, tmp_path, backend):
    with pytest.raises(
        InputError, match=rf"python -m mqb_monai quantize --bundle {tmp_path} --images 'GLOB' --scheme w4"
    ):
        build_network(network, "w4a4_adaptive", backend, tmp_path / "models" / "quantized", tmp_path, SHAPE)
    write_quantize_config(tmp_path)  # ours
    with pytest.raises(InputError) as caught:
        build_network(network, "w4a4_adaptive", backend, tmp_path / "models" / "quantized", tmp_path, SHAPE)
    assert "scheme 'w4a4_adaptive' has no checkpoint at" in str(caught.value)
    assert (
        f"python -m monai.bundle run quantize --config_file {tmp_path / 'configs' / 'quantize.json'} "
        f"--bundle_root {tmp_path} --scheme w4a4_adaptive --dataset_dir" in str(caught.value)
    )


def test_simulated_network_gives_the_short_command_inside_the_bundle(network, tmp_path, monkeypatch):
    write_quantize_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"run quantize --config_file configs/quantize.json --scheme w4a4_adaptive "):
        simulated_network(network, "w4a4_adaptive", "./models/quantized")


def test_simulated_network_refuses_the_checkpoint_of_other_weights(network, quantized_dir):
    with torch.no_grad():
        network.head.bias += 1
    with pytest.raises(InputError, match="weights"):
        simulated_network(network, "w8a8_engine", quantized_dir)


@pytest.mark.parametrize(("scheme", "backend", "match"), [("w9", "torch", "w9"), ("fp16", "onnx", "no precision")])
def test_build_network_refuses_names_it_does_not_know(network, tmp_path, scheme, backend, match):
    with pytest.raises(InputError, match=match):
        build_network(network, scheme, backend, tmp_path, tmp_path, SHAPE)


def test_engine_handler_gives_the_evaluator_its_network(network, quantized_dir, tmp_path):
    engine = Engine(lambda engine, batch: type(engine.network))
    handler = EngineHandler(network, "w8a8_engine", "torch", quantized_dir, tmp_path / "engines", SHAPE)
    handler.attach(engine)
    engine.run([0])
    assert quantized_layers(engine.network) and not quantized_layers(network)
    assert engine.state.weights_sha256 == weights_sha256(network.state_dict())


def test_build_network_builds_again_where_another_recipe_replaced_the_checkpoint(network, x, engine_scheme, tmp_path):
    """Oracle: the simulation of the checkpoint that lies there."""
    quantized_dir, engines, shas = tmp_path / "quantized", tmp_path / "engines", []

    def build():
        built = build_network(network, engine_scheme, "openvino", quantized_dir, engines, SHAPE)
        (record,) = engines.rglob("engine.json")
        shas.append(json.loads(record.read_text())["content_sha256"])
        return built

    def step(qnet):  # of the output's grid, roughly
        return (qnet.eval()(x) - network(x)).abs().max()

    save_quantized(by_recipe(network, engine_scheme, [x]), quantized_dir / f"{engine_scheme}.pt")
    build()
    replaced = by_recipe(network, engine_scheme, [x], recipe="percentile")
    save_quantized(replaced, quantized_dir / f"{engine_scheme}.pt")
    built, simulated = build(), simulated_network(network, engine_scheme, quantized_dir).eval()
    build()
    assert shas[0] != shas[1] == shas[2]
    with torch.no_grad():
        assert (built(x) - simulated(x)).abs().max() < step(simulated)
