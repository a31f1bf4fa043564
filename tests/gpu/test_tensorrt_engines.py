"""TensorRT engines against torch and the simulation, on a GPU.

Oracles: the float network, and the simulation of the same scheme, both by torch on the CPU in FP32. Two right
computations of one quantized network differ where the last bit of a sum tips a rounding: one step at 8 bits is 0.4 % of
the range.
"""

from __future__ import annotations

import copy

import pytest
import torch

from mqb_monai.backends import compile_network
from mqb_monai.backends.layer_check import REQUIRED_SHARE
from mqb_monai.backends.tensorrt.backend import load_engine
from mqb_monai.backends.tensorrt.libraries import gpu_name
from mqb_monai.quantization import quantize

# What torch_tensorrt, ModelOpt and TensorRT warn of is theirs.
pytestmark = [pytest.mark.usefixtures("lane"), pytest.mark.filterwarnings("ignore")]


def build(network, x, path, **options):
    return compile_network(network, "tensorrt", x, path, **options)


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 1e-2), ("bf16", 5e-2)])
def test_float_engine_equals_torch(network, x, tmp_path, relative_rms, precision, limit):
    engine = build(network, x, tmp_path / "engine", precision=precision)
    with torch.no_grad():
        assert relative_rms(engine(x), network(x)) < limit


@pytest.mark.parametrize("scheme", ["w8a8_engine", "w8a8_tensorrt"])
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 0.6), ("fp16", 1.0)])
def test_int8_engine_agrees_with_its_simulation(network, x, tmp_path, relative_rms, scheme, precision, limit):
    """``limit``: of what quantizing itself changes; FP16 between INT8 layers tips more roundings (0.67 by torch)."""
    qnet = quantize(network, scheme, [x])
    engine = build(qnet, x, tmp_path / "engine", precision=precision)
    check = engine.record.layer_check
    assert (check["layers"], engine.record.float_layers) == (6, [])
    assert check["worst_share"] >= REQUIRED_SHARE
    with torch.no_grad():
        simulated = qnet(x)
        assert relative_rms(engine(x), simulated) < limit * relative_rms(simulated, network(x))


def test_a_saved_engine_is_the_same_and_runs_any_batch(network, x, tmp_path):
    engine = build(quantize(network, "w8a8_engine", [x]), x[:1], tmp_path / "engine", precision="fp16")
    loaded = load_engine(tmp_path / "engine")
    assert torch.equal(loaded(x), engine(x))
    assert torch.equal(copy.deepcopy(engine)(x.cuda()).cpu(), engine(x))
    assert loaded.record.gpu == gpu_name()
